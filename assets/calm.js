/* While a run is live nothing on the page moves more often than its text. The engine may share the processor with this
 * browser, and a timer of Gradio's start screen, which outlives it, asks for sixty frames a second: 5% of a pass.
 * It keeps the function it found when its module ran, so this has to run before Gradio's modules do. */
(() => {
  const CALM_MS = 160;
  const [request, cancel] = [window.requestAnimationFrame.bind(window), window.cancelAnimationFrame.bind(window)];
  const held = new Map(); // id, below 0 -> what takes the request back
  let holds = 0;
  window.requestAnimationFrame = (callback) => {
    if (!window.Playground?.store?.live) return request(callback);
    const id = --holds;
    const show = () => {
      const frame = request((now) => held.delete(id) && callback(now));
      held.set(id, () => cancel(frame));
    };
    const timer = setTimeout(show, CALM_MS);
    held.set(id, () => clearTimeout(timer));
    return id;
  };
  window.cancelAnimationFrame = (id) => {
    if (id >= 0) return cancel(id);
    held.get(id)?.();
    held.delete(id);
  };
})();
