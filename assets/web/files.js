/* Traces and pages as files: export and import. */
(() => {
  const Playground = (globalThis.Playground ??= {});
  const { download, h, shelf, toolButton } = Playground;

  const fileName = (run, ending) => {
    const created = run.started?.created.replace(/[^0-9]/g, "").slice(0, 14) ?? "";
    return `speculative-${created}.${ending}`;
  };

  /** Export and import. */
  class Toolbar {
    constructor(view, server, recordings) {
      this.view = view;
      this.store = view.store;
      this.server = server;
      this.jsonl = toolButton("Trace (JSONL)", "Save every event of this run", () => download(this.store.run.jsonl, fileName(this.store.run, "jsonl"), "application/jsonl"));
      this.html = toolButton("Page (HTML)", "Save this run as one page that opens anywhere", () => this.#exportPage());
      this.png = toolButton("Plot (PNG)", "Save the plot as a picture", () => view.plot.save());
      this.needRun = [this.jsonl, this.html, this.png];
      const save = h("div", { class: "tools", role: "group", "aria-label": "Export" }, h("span", { class: "tools-name" }, "Export"), this.jsonl, server && this.html, server && this.png);
      this.element = h("section", { class: "toolbar", "aria-label": "Files" }, save);
      if (server) this.element.append(this.#open(recordings));
    }

    #open(recordings) {
      const file = h("input", { type: "file", accept: ".jsonl,.json,.txt", class: "file", "aria-label": "Open a trace file", onchange: () => this.#import(file) });
      const group = h("div", { class: "tools", role: "group", "aria-label": "Open" }, h("span", { class: "tools-name" }, "Open"), h("label", { class: "tool file-label" }, "a trace file", file));
      if (recordings.length) {
        const choice = h("select", { class: "tool", "aria-label": "Recorded runs", onchange: () => this.#recording(choice) }, h("option", { value: "" }, "a recorded run"), ...recordings.map(({ name, label }) => h("option", { value: name }, label)));
        group.append(choice);
      }
      this.last = h("button", { type: "button", class: "tool", hidden: true, onclick: () => this.#reopen() }, "your last run");
      shelf.get().then((text) => (this.last.hidden = !text || this.store.run.lines.length > 0));
      group.append(this.last);
      return group;
    }

    #recording(choice) {
      const name = choice.value;
      choice.value = "";
      if (name) this.view.open(this.server.recording(name));
    }

    async #reopen() {
      const text = await shelf.get();
      this.last.hidden = true;
      if (text) this.view.open(this.server.open_trace(text), "", true);
    }

    async #import(file) {
      const [chosen] = file.files;
      file.value = "";
      if (chosen) this.view.open(this.server.open_trace(await chosen.text()), chosen.name);
    }

    async #exportPage() {
      this.html.disabled = true;
      const answer = await this.server.page_of(this.store.run.jsonl);
      this.html.disabled = false;
      if (answer.error) this.view.refuse("", answer.error);
      else download(answer.page, fileName(this.store.run, "html"), "text/html");
    }

    update() {
      for (const each of this.needRun) each.disabled = this.store.live || !this.store.run.lines.length;
      if (this.last && this.store.run.lines.length) this.last.hidden = true;
    }
  }

  Object.assign(Playground, { Toolbar });
})();
