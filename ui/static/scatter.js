// Taken against drift: a dot that is pressed is told to the page. Runs after the script of ui/live.py, whose `body` and
// `all` it shares; the dots themselves come from the server.

let pressed = null;                     // the step whose dot keeps the focus when the plane is drawn anew

element.addEventListener("click", (event) => {
  const dot = event.target.closest("button[data-step]");
  if (!dot || dot.disabled || dot.getAttribute("aria-pressed") === "true") return;
  pressed = dot.dataset.step;
  trigger("choose", { run: props.value, step: Number(pressed) });
  for (const pause of [250, 900]) setTimeout(all.look, pause);
});

// With a dot in focus the arrow keys go to the next one, by step.
element.addEventListener("keydown", (event) => {
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  const dot = event.target.closest("button[data-step]");
  if (!by || !dot) return;
  event.preventDefault();
  const dots = [...element.querySelectorAll("button[data-step]:not(:disabled)")];
  dots[(dots.indexOf(dot) + by + dots.length) % dots.length]?.focus();
});

new MutationObserver(() => {
  if (pressed === null) return;
  body.querySelector(`button[data-step="${pressed}"]`)?.focus({ preventScroll: true });
  pressed = null;
}).observe(body, { childList: true });
