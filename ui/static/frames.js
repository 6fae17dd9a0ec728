// The framework's sign of waiting counts tenths of a second in every frame, and the one of the page's opening goes on after
// it was taken away: sixty frames a second of a page at rest for as long as it is open. Of what that sign asks for, one frame
// a second is given; nobody else's frames are touched.
{
  const frame = window.requestAnimationFrame.bind(window);
  window.requestAnimationFrame = callback => {
    const asker = new Error().stack ?? '';
    if (!asker.includes('/statustracker-')) return frame(callback);
    return setTimeout(() => frame(callback), 1000);
  };
}
