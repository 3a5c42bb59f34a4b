// A widget manager as Colab's is, told by its behaviour: googlecolab/colab-cdn-widget-manager, src/manager.ts and amd.ts.
import * as base from "@jupyter-widgets/base";
import { ManagerBase } from "@jupyter-widgets/base-manager";
import * as controls from "@jupyter-widgets/controls";

// Classes as Backbone wants them: called without `new`, too.
const callable = (Class) => {
  function Made(...given) {
    return Reflect.construct(Class, given, new.target ?? this.constructor);
  }
  Object.setPrototypeOf(Made, Class);
  Object.setPrototypeOf(Made.prototype, Class.prototype);
  return Made;
};
const exported = (module) =>
  Object.fromEntries(
    Object.entries(module).map(([name, part]) => [name, /^class /.test(String(part)) ? callable(part) : part]),
  );

/** A channel of the host's, as the models of ipywidgets want a comm. */
class Comm {
  constructor(id, channel) {
    this.comm_id = id;
    this.target_name = "";
    this.channel = channel;
  }
  send(data, callbacks, _metadata, buffers) {
    const views = buffers?.map((b) => (ArrayBuffer.isView(b) ? new Uint8Array(b.buffer, b.byteOffset, b.byteLength) : b));
    this.channel
      .send(JSON.parse(JSON.stringify(data)), views)
      .then(() => callbacks?.iopub?.status?.({ content: { execution_state: "idle" } }));
    return "";
  }
  close() {
    this.channel.close();
    return "";
  }
  async on_msg(callback) {
    for await (const { data, buffers } of this.channel.messages()) {
      try {
        callback({ content: { comm_id: this.comm_id, data }, buffers: (buffers ?? []).map((b) => new Uint8Array(b)) });
      } catch (error) {
        console.error(error);
      }
    }
  }
  async on_close(callback) {
    for await (const _ of this.channel.messages());
    callback();
  }
}

/** Lumino's life in the elements that a page adds and removes. */
class Adapter extends HTMLElement {
  connectedCallback() {
    this.widget?.processMessage({ type: "after-attach", isConflatable: false, conflate: () => false });
  }
}
customElements.define("colab-lumino-adapter", Adapter);

export class Manager extends ManagerBase {
  /** ``host``: modelState(id) and channels; ``fetchText(module)``: what the CDN has. */
  constructor(host, fetchText) {
    super();
    this.host = host;
    this.fetchText = fetchText;
    this.made = new Map();
    this.modules = new Map([
      ["@jupyter-widgets/base", Promise.resolve(exported(base))],
      ["@jupyter-widgets/controls", Promise.resolve(exported(controls))],
    ]);
  }

  async loadClass(name, module) {
    if (!this.modules.has(module)) this.modules.set(module, this.load(module));
    return (await this.modules.get(module))[name];
  }

  /** An AMD module of the CDN, which may ask for those that are here. */
  async load(module) {
    const script = await this.fetchText(module);
    let made;
    const define = (...given) => {
      const [needs, factory] = given.slice(-2);
      made = Promise.all(needs.map((need) => this.modules.get(need))).then((parts) => factory.apply(window, parts));
    };
    new Function("define", script).call({ define }, define);
    return made;
  }

  _get_comm_info() {
    throw new Error("not in Colab");
  }

  get_model(id) {
    if (!this.made.has(id)) this.made.set(id, this.make(id));
    return this.made.get(id);
  }

  async make(id) {
    const { state, channel } = this.host.modelState(id);
    const bare = base.remove_buffers(state);
    base.put_buffers(state, bare.buffer_paths, bare.buffers);
    const options = {
      model_name: state._model_name,
      model_module: state._model_module,
      model_module_version: state._model_module_version,
      model_id: id,
      comm: new Comm(id, channel),
    };
    return this.new_model(options, state);
  }

  /** A widget that is opened later: made at once, and without its buffers, as there. */
  async opened(id, channel, data) {
    if (this.made.has(id)) return;
    const content = { comm_id: id, target_name: "jupyter.widget", data };
    await this.handle_comm_open(new Comm(id, channel), { metadata: { version: base.PROTOCOL_VERSION }, content });
  }

  async render(id, place) {
    const view = await this.create_view(await this.get_model(id));
    view.luminoWidget.processMessage({ type: "before-attach", isConflatable: false, conflate: () => false });
    const adapter = new Adapter();
    adapter.widget = view.luminoWidget;
    adapter.append(view.el);
    place.append(adapter);
  }
}
