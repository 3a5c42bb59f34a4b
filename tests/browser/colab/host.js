// What Colab's page does for its widget manager: a kernel, its comms, the outputs of cells.
import * as base from "@jupyter-widgets/base";
import { KernelManager, ServerConnection } from "@jupyterlab/services";
import { Manager } from "./manager.js";

/** A comm: its state when it was opened, and all that came since, for whoever listens from whenever on. */
class Channel {
  constructor(comm, message, counted) {
    this.comm = comm;
    this.state = structuredClone(message.content.data.state);
    base.put_buffers(this.state, message.content.data.buffer_paths ?? [], message.buffers ?? []);
    this.past = [];
    this.waiting = [];
    this.closed = false;
    comm.onMsg = ({ content, buffers }) => {
      counted(content.data, buffers);
      this.past.push({ data: content.data, buffers: (buffers ?? []).map((b) => b.buffer?.slice(b.byteOffset, b.byteOffset + b.byteLength) ?? b) });
      this.wake();
    };
    comm.onClose = () => {
      this.closed = true;
      this.wake();
    };
  }
  wake() {
    this.waiting.splice(0).forEach((go) => go());
  }
  async *messages() {
    for (let next = 0; ; next++) {
      while (next === this.past.length) {
        if (this.closed) return;
        await new Promise((go) => this.waiting.push(go));
      }
      yield structuredClone(this.past[next]);
    }
  }
  send(data, buffers) {
    return this.comm.send(data, undefined, buffers).done;
  }
  close() {
    this.comm.close();
  }
}

class Host {
  constructor(kernel) {
    this.kernel = kernel;
    this.channels = new Map();
    this.bytes = [];
    const fetchText = async (module) => (await fetch(`node_modules/${module}/dist/index.js`)).text();
    this.manager = new Manager(this, fetchText);
    kernel.registerCommTarget("jupyter.widget", (comm, message) => {
      const counted = this.counted.bind(this);
      counted(message.content.data, message.buffers);
      const channel = new Channel(comm, message, counted);
      this.channels.set(comm.commId, channel);
      this.manager.opened(comm.commId, channel, structuredClone(message.content.data)).catch(console.warn);
    });
  }

  modelState(id) {
    const channel = this.channels.get(id);
    if (!channel) throw new Error(`no comm ${id}`);
    return { state: structuredClone(channel.state), channel };
  }

  /** When how many bytes came through comms, in the page's milliseconds. */
  counted(data, buffers) {
    const size = JSON.stringify(data).length + (buffers ?? []).reduce((sum, b) => sum + b.byteLength, 0);
    this.bytes.push([performance.now(), size]);
  }

  /** Run a cell and show what it puts out; an error is thrown. */
  async run(code) {
    const place = document.body.appendChild(document.createElement("section"));
    const cell = this.kernel.requestExecute({ code });
    cell.onIOPub = ({ header, content }) => {
      const data = content.data ?? {};
      const view = data["application/vnd.jupyter.widget-view+json"];
      if (view) return this.manager.render(view.model_id, place);
      const text = content.text ?? data["text/plain"];
      if (text && ["stream", "execute_result", "display_data"].includes(header.msg_type))
        place.appendChild(document.createElement("pre")).textContent = text;
    };
    const { content } = await cell.done;
    if (content.status !== "ok") throw new Error([content.ename, content.evalue, ...(content.traceback ?? [])].join("\n"));
  }

  /** What an expression is in the kernel, as JSON. */
  async ask(expression) {
    const user_expressions = { it: `__import__("IPython.display", fromlist=["JSON"]).JSON([${expression}])` };
    const { content } = await this.kernel.requestExecute({ code: "", silent: true, user_expressions }).done;
    const { data, ename, evalue } = content.user_expressions.it;
    if (!data) throw new Error(`${ename}: ${evalue}`);
    return data["application/json"][0];
  }
}

const baseUrl = `${location.origin}/`;
const serverSettings = ServerConnection.makeSettings({
  baseUrl,
  wsUrl: baseUrl.replace("http", "ws"),
  appendToken: true,
  token: new URLSearchParams(location.search).get("token"),
});
const kernel = await new KernelManager({ serverSettings }).startNew({ name: "python3" });
await kernel.info;
window.colab = new Host(kernel);
document.body.dataset.ready = "yes";
