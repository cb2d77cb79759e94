/* What this browser keeps for after a refresh. */
(() => {
  const Playground = (globalThis.Playground ??= {});

  /** The last trace, kept in this browser so that a refresh can give it back. A courtesy: it fails quietly. */
  let database = null;
  const onShelf = async (mode, act) => {
    try {
      database ??= new Promise((resolve, reject) => {
        const opening = indexedDB.open("speculative-sampling-playground", 1);
        opening.onupgradeneeded = () => opening.result.createObjectStore("traces");
        opening.onsuccess = () => resolve(opening.result);
        opening.onerror = () => reject(opening.error);
      });
      const store = (await database).transaction("traces", mode).objectStore("traces");
      return await new Promise((resolve, reject) => {
        const request = act(store);
        request.onsuccess = () => resolve(request.result ?? null);
        request.onerror = () => reject(request.error);
      });
    } catch {
      return null;
    }
  };
  const shelf = {
    put: (text) => onShelf("readwrite", (store) => store.put(text, "last")),
    get: () => onShelf("readonly", (store) => store.get("last")),
  };

  Object.assign(Playground, { shelf });
})();
