/* What goes to the server in one piece: long texts packed, and why nothing came back. Runs in node as well. */
(() => {
  const Playground = (globalThis.Playground ??= {});

  const SHORT = 100_000; // characters that are sent as they are
  const PIECE = 0x8000; // bytes made characters at once: a call takes so many arguments only

  const base64 = (bytes) => {
    let text = "";
    for (let at = 0; at < bytes.length; at += PIECE) text += String.fromCharCode(...bytes.subarray(at, at + PIECE));
    return btoa(text);
  };

  /** A text as the server takes it; see app/ui/packed.py. */
  const packed = async (text) => {
    if (text.length <= SHORT || !globalThis.CompressionStream) return text;
    const stream = new Blob([text]).stream().pipeThrough(new CompressionStream("gzip"));
    return { gzip: base64(new Uint8Array(await new Response(stream).arrayBuffer())) };
  };

  /** What a function of the server answers to a text; {error: sentence} where none came. */
  const sent = async (ask, text) => {
    try {
      return await ask(await packed(text));
    } catch {
      const there = await fetch("healthz").then(({ ok }) => ok, () => false);
      return {
        error: there
          ? "The server did not get this run: a proxy before it may let less through; "
            + "./launch.sh export makes a page of its trace."
          : "The server does not answer; start it again with ./launch.sh, and reload the page.",
      };
    }
  };

  Object.assign(Playground, { packed, sent });
  if (typeof module !== "undefined") module.exports = Playground;
})();
