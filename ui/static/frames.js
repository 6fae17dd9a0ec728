// The framework's sign of waiting counts tenths of a second in every frame, and the one of the page's opening goes on after
// it was taken away: sixty frames a second of a page at rest for as long as it is open. That sign is called once a
// second instead, outside of any frame: one is drawn only where it changes something. Nobody else's frames are touched.
{
  const frame = window.requestAnimationFrame.bind(window);
  window.requestAnimationFrame = callback => {
    const asker = new Error().stack ?? '';
    if (!asker.includes('/statustracker-')) return frame(callback);
    return setTimeout(() => document.hidden ? frame(callback) : callback(performance.now()), 1000);
  };
}
