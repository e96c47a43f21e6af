// Joins view.js to a notebook's kernel: what is chosen goes to Python, numbers come from it.
const unpack = async (packed) => {
  const bytes = new Uint8Array(packed.buffer, packed.byteOffset, packed.byteLength);
  const opened = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const code = await new Response(opened).text();
  const before = "const module = {exports: {}}, exports = module.exports, define = undefined;\n";
  const blob = new Blob([before, code, "\nexport default module.exports;"], { type: "text/javascript" });
  const url = URL.createObjectURL(blob);
  try {
    return (await import(url)).default;
  } finally {
    URL.revokeObjectURL(url);
  }
};

// One build of plotly, its template and its settings for all views of a page.
const shared = async (model) => {
  const id = model.get("plotly").replace("IPY_MODEL_", "");
  const build = await model.widget_manager.get_model(id);
  globalThis.workbenchPlotly ??= unpack(build.get("code"));
  return {
    Plotly: await globalThis.workbenchPlotly,
    template: JSON.parse(build.get("template")),
    config: JSON.parse(build.get("config")),
  };
};

const render = async ({ model, el }) => {
  const root = document.createElement("div");
  root.className = "workbench-view";
  root.textContent = "Loading…";
  el.append(root);
  let waiting = false;
  let prompt = "";
  const busy = () => Boolean(model.get("status").busy);
  // Without a kernel sending throws; what is precomputed moves all the same.
  const send = (message) => {
    try {
      model.send(message);
    } catch {
      mounted.tell({ words: "The kernel is gone: start it and run the cell again." });
    }
  };
  // While Python works, only the last release waits: a slider moved often asks once more.
  const release = () => {
    if (busy()) waiting = true;
    else send({ kind: "release" });
  };
  const view = JSON.parse(model.get("view"));
  const host = {
    ...(await shared(model)),
    choice: model.get("choice"),
    status: model.get("status"),
    choose: (choice) => {
      try {
        model.set("choice", choice);
        model.save_changes();
      } catch {
        // Nobody listens: see send.
      }
    },
    release: view.ask ? release : undefined,
    press: (name) => send({ kind: "press", name }),
    ask: (text) => {
      prompt = text;
      send({ kind: "ask", prompt });
    },
  };
  view.tables = JSON.parse(model.get("tables")); // now: they may have changed while plotly came
  const mounted = workbenchView.mount(root, view, host);
  const listeners = {
    "change:choice": () => mounted.choose(model.get("choice")),
    "change:tables": () => mounted.fill(JSON.parse(model.get("tables"))),
    "change:status": () => {
      mounted.tell(model.get("status"));
      if (waiting && !busy()) {
        waiting = false;
        release();
      }
    },
  };
  for (const [event, listener] of Object.entries(listeners)) model.on(event, listener);
  return () => {
    for (const [event, listener] of Object.entries(listeners)) model.off(event, listener);
    mounted.remove();
  };
};

export default { render };
