/* `length` tokens in each pane, then ten updates live, whose frames are slow, and thirty moments of a replay.
   Gives, besides the tokens of each pane, what an update touched: elements added and removed, and the elements
   changed while live and while replayed, each at most. */
(async (length) => {
  const { store } = window.Playground;
  const alternatives = [1, 2, 3, 4, 5].map((id) => ({ id, model_prob: 0.2, warped_prob: 0.2 }));
  const made = { target: { rounds: 0, tokens: 0 }, speculative: { rounds: 0, tokens: 0 } };
  const figures = ({ tokens, rounds }) => ({
    tokens,
    rounds,
    ttft_s: 0.01,
    tpot_s: 0.01,
    tokens_per_s: 100,
    mean_acceptance_length: 2,
    acceptance_rate: 0.5,
    draft_acceptance_rate: 0.4,
    acceptance_by_position: [0.5, 0.4, 0.3],
    total_variation: 0,
    counts: { accepted: tokens },
  });

  const round = (arm) => {
    const state = made[arm];
    const states = arm === "target" || !state.rounds ? [] : ["accepted", "rejected", "discarded"];
    const drafted = states.map((kind) => ({
      id: 2,
      state: kind,
      q: 0.3,
      p: 0.4,
      u: 0.5,
      threshold: 0.6,
      draft_alternatives: alternatives,
      target_alternatives: alternatives,
    }));
    const final = { id: 1, provenance: drafted.length ? "corrected" : "target", p: 0.9, alternatives, residual: [] };
    const texts = [...(drafted.length ? [" word"] : []), state.rounds % 40 === 39 ? ".\n" : " longer"];
    state.tokens += texts.length;
    const event = {
      type: "round",
      index: state.rounds++,
      arm,
      drafted,
      final,
      draft_seconds: 0.002,
      verify_seconds: 0.008,
      host_seconds: 0,
      total_variation: 0,
      finish_reason: null,
    };
    return {
      line: JSON.stringify(event),
      texts,
      drafts: states.map(() => " word"),
      clock: 0.01 * state.tokens,
      figures: figures(state),
      agreed: state.tokens,
      diverged: null,
    };
  };
  const grow = (tokens) =>
    ["target", "speculative"].flatMap((arm) => {
      const items = [];
      for (const end = made[arm].tokens + tokens; made[arm].tokens < end;) items.push(round(arm));
      return items;
    });
  const panes = ["target", "speculative"].map((arm) => document.querySelector(`.pane-${arm} .pane-text`));
  const changed = { added: 0, removed: 0, targets: new Set() };
  const take = (records) => {
    for (const record of records) {
      changed.added += record.addedNodes.length;
      changed.removed += record.removedNodes.length;
      changed.targets.add(record.target);
    }
  };
  const watch = new MutationObserver(take);
  for (const pane of panes)
    watch.observe(pane, { attributes: true, childList: true, characterData: true, subtree: true });
  const touched = async (turns, act) => {
    const most = { added: 0, removed: 0, changed: 0 };
    for (let turn = 0; turn < turns; turn++) {
      await new Promise((done) => requestAnimationFrame(done));
      take(watch.takeRecords());
      Object.assign(changed, { added: 0, removed: 0, targets: new Set() });
      act(turn);
      await new Promise((done) => requestAnimationFrame(done));
      take(watch.takeRecords());
      most.added = Math.max(most.added, changed.added);
      most.removed = Math.max(most.removed, changed.removed);
      most.changed = Math.max(most.changed, changed.targets.size);
    }
    return most;
  };

  const id = `long ${length}`;
  let seq = 0;
  const send = (items) => store.receive([JSON.stringify({ run: id, seq: seq++, items })]);
  store.begin(id);
  send([{ line: JSON.stringify({ type: "token_texts", pieces: {}, special: [] }), labels: {} }, ...grow(length)]);
  const live = await touched(10, () => send(grow(8)));
  store.settle();
  const clocks = store.run.arms.target.rounds.map((each) => each.clock);
  const first = Math.floor(clocks.length / 2);
  store.seek(clocks[first]);
  const replayed = await touched(30, (turn) => store.seek(clocks[first + 1 + turn]));
  return {
    tokens: panes.map((pane) => pane.querySelectorAll(".tok:not(.k-rejected):not(.k-discarded)").length),
    live,
    replayed,
  };
});
