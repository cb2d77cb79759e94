/* Frames cost passes: the engine may share the processor with this browser. So nothing on the page moves more often than its
 * text while a run is live. And whoever took requestAnimationFrame before the page's own scripts came keeps it: Gradio's
 * timers do, and that of its start screen outlives it and asks for sixty frames a second as long as the page is open, 5% of
 * a pass. This runs before Gradio's modules, and what they took is slow from the start of the page's own scripts on. */
(() => {
  const HELD_MS = 160;
  const [request, cancel] = [window.requestAnimationFrame.bind(window), window.cancelAnimationFrame.bind(window)];
  const held = new Map(); // id, below 0 -> what takes the request back
  let holds = 0;
  const slowIf = (slow) => (callback) => {
    if (!slow()) return request(callback);
    const id = --holds;
    const show = () => {
      const frame = request((now) => held.delete(id) && callback(now));
      held.set(id, () => cancel(frame));
    };
    const timer = setTimeout(show, HELD_MS);
    held.set(id, () => clearTimeout(timer));
    return id;
  };
  window.cancelAnimationFrame = (id) => {
    if (id >= 0) return cancel(id);
    held.get(id)?.();
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
