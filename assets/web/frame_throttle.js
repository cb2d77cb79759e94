/* Frames cost passes: the engine may share the processor with this browser. So nothing on the page moves more often than its
 * text while a run is live. And whoever took requestAnimationFrame before the page's own scripts came keeps it: Gradio's
 * timers do, and that of its start screen outlives it and asks for sixty frames a second as long as the page is open, 5% of
 * a pass. This runs before Gradio's modules, and what they took is slow from the start of the page's own scripts on. */
(() => {
  const [LIVE_MS, REST_MS] = [250, 160]; // live, as often as the text changes
  const [request, cancel] = [window.requestAnimationFrame.bind(window), window.cancelAnimationFrame.bind(window)];
  const held = new Map(); // id, below 0 -> its timer
  let holds = 0;
  // Whoever is slow is called by a timer, and gets a frame where that changes something: one asked for costs 3 ms even so.
  const slowIf = (slow) => (callback) => {
    if (!slow()) return request(callback);
    const id = --holds;
    const show = () => {
      held.delete(id);
      callback(performance.now());
    };
    held.set(id, setTimeout(show, window.Playground.store?.live ? LIVE_MS : REST_MS));
    return id;
  };
  window.cancelAnimationFrame = (id) => {
    if (id >= 0) return cancel(id);
    clearTimeout(held.get(id));
    held.delete(id);
  };

  let started = false;
  window.requestAnimationFrame = slowIf(() => started);
  window.Playground = {
    /** For the end of the page's own scripts. */
    started() {
      started = true;
      window.requestAnimationFrame = slowIf(() => window.Playground.store.live);
    },
  };
})();
