// Loads traces into Perfetto's trace processor and queries them: node query.mjs FOLDER, where FOLDER has the trace
// processor in WebAssembly with what its user interface has around it. A line of input is a query about a trace,
// {"file": …, "sql": …}; a line of output is its rows, or what went wrong.
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";
import { runInThisContext } from "node:vm";

console.warn = () => {}; // it has a version older than its engine's, and says so

const folder = process.argv[2];
const { EngineBase } = await import(pathToFileURL(`${folder}/engine.mjs`));

// The module is made for a web worker, which this pretends to be. It starts with a bridge to the worker's messages; in
// place of that, it is to give its 32-bit WebAssembly module.
globalThis.self = globalThis;
globalThis.WorkerGlobalScope = Object;
globalThis.location = { href: pathToFileURL(folder).href };
const bundle = readFileSync(`${folder}/engine_bundle.node.js`, "utf8");
const start = "var engineExports = requireEngine();";
if (!bundle.includes(start)) throw new Error("engine_bundle.node.js does not start as expected");
runInThisContext(bundle.replace(start, "var engineExports = requireTrace_processor();"));

const module = globalThis.engine({
  wasmBinary: readFileSync(`${folder}/trace_processor.wasm`),
  printErr: () => {}, // what it reports is in the table stats, too
});
const bufferSize = 1 << 20;
const reply = module.addFunction((at, size) => engine.onRpcResponseBytes(module.HEAPU8.slice(at >>> 0, (at >>> 0) + size)), "vpi");
const buffer = module.ccall("trace_processor_rpc_init", "pointer", ["pointer", "number"], [reply, bufferSize]) >>> 0;

class Engine extends EngineBase {
  rpcSendRequestBytes(data) {
    for (let i = 0; i < data.length; i += bufferSize) {
      const part = data.subarray(i, i + bufferSize);
      module.HEAPU8.set(part, buffer);
      module.ccall("trace_processor_on_rpc_request", "void", ["number"], [part.length]);
    }
  }
}
const engine = new Engine();

async function load(file) {
  await engine.resetTraceProcessor({ ingestFtraceInRawTable: true });
  await engine.parse(readFileSync(file));
  await engine.notifyEof();
}

async function query(sql) {
  const result = await engine.query(sql);
  if (result.error()) throw new Error(result.error());
  const rows = [];
  for (const row = result.iter({}); row.valid(); row.next()) {
    rows.push(`{${result.columns().map((column) => `${JSON.stringify(column)}:${text(row.get(column))}`)}}`);
  }
  return rows.join();
}

const text = (value) => (typeof value === "bigint" ? String(value) : JSON.stringify(value));

let loaded; // the file
for await (const line of createInterface({ input: process.stdin })) {
  const { file, sql } = JSON.parse(line);
  try {
    if (file !== loaded) await load(file);
    loaded = file;
    console.log(`{"rows":[${await query(sql)}]}`);
  } catch (error) {
    console.log(JSON.stringify({ error: String(error) }));
  }
}
