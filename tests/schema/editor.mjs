// docs/squall.schema.json as the language server of the editors has it, spoken to as an editor does: what it proposes,
// what it explains, what it marks.
import {spawn} from 'node:child_process';
import {readFileSync} from 'node:fs';
import {dirname, join} from 'node:path';
import {fileURLToPath, pathToFileURL} from 'node:url';
import rpc from 'vscode-jsonrpc/node.js';
import {plansOfTheRepository, root} from './plans.mjs';

const here = dirname(fileURLToPath(import.meta.url));
const schema = JSON.parse(readFileSync(join(root, 'docs', 'squall.schema.json'), 'utf8'));
const modeline = '# yaml-language-server: $schema=../docs/squall.schema.json\n';

const program = join(here, 'node_modules/yaml-language-server/bin/yaml-language-server');
const server = spawn(process.execPath, [program, '--stdio'], {stdio: ['pipe', 'pipe', 'inherit']});
const connection = rpc.createMessageConnection(
  new rpc.StreamMessageReader(server.stdout), new rpc.StreamMessageWriter(server.stdin));

// It asks for its settings one by one; nothing is to be fetched from anywhere.
const settings = {yaml: {validate: true, hover: true, completion: true, schemaStore: {enable: false}}};
connection.onRequest('workspace/configuration', ({items}) => items.map(({section}) => settings[section] ?? {}));
connection.onRequest('client/registerCapability', () => null);

const marks = new Map();  // what is waited for, by document
connection.onNotification('textDocument/publishDiagnostics', ({uri, diagnostics}) => {
  marks.get(uri)?.(diagnostics.map(({message, range}) => `${range.start.line + 1}: ${message}`));
  marks.delete(uri);
});
connection.listen();

let failed = 0;
function expect(holds, text) {
  if (holds) return;
  ++failed;
  console.error(`FAILED: ${text}`);
}

let opened = 0;
/** Opens a document with the text below examples/, where the committed plans are; nothing is written there. */
async function open(text) {
  const uri = pathToFileURL(join(root, 'examples', `unsaved-${++opened}.yaml`)).href;
  const marked = new Promise((resolve) => marks.set(uri, resolve));
  const textDocument = {uri, languageId: 'yaml', version: 1, text};
  await connection.sendNotification('textDocument/didOpen', {textDocument});
  return {uri, marked};
}

/** The text without its |, and where that was. */
function cursorIn(text) {
  const before = text.slice(0, text.indexOf('|')).split('\n');
  return {text: text.replace('|', ''), position: {line: before.length - 1, character: before.at(-1).length}};
}

async function proposedIn(text) {
  const at = cursorIn(modeline + text);
  const {uri} = await open(at.text);
  const {items} = await connection.sendRequest('textDocument/completion', {textDocument: {uri}, position: at.position});
  return new Map(items.map((item) => [item.label, item]));
}

async function explainedIn(text) {
  const at = cursorIn(modeline + text);
  const {uri} = await open(at.text);
  const hover = await connection.sendRequest('textDocument/hover', {textDocument: {uri}, position: at.position});
  // Markdown hides what has a meaning in it behind backslashes.
  return (hover?.contents?.value ?? 'nothing').replaceAll('\\', '').replaceAll('&nbsp;', ' ');
}

async function markedIn(text) {
  return (await open(modeline + text)).marked;
}

const head = 'plan: p\nnodes: {db: {address: "db:7411"}, web: {address: "web:7411"}}\n';
const explained = (definition, field) => schema.definitions[definition].properties[field].description;

async function main() {
  await connection.sendRequest('initialize', {
    processId: process.pid,
    rootUri: pathToFileURL(root).href,
    capabilities: {
      textDocument: {completion: {completionItem: {snippetSupport: true}}, hover: {contentFormat: ['markdown']}},
      workspace: {configuration: true, didChangeConfiguration: {dynamicRegistration: true}},
    },
  });
  await connection.sendNotification('initialized', {});

  // Keys, with their help.
  const step = await proposedIn(`${head}method:\n  - name: one\n    |\n`);
  for (const word of ['network', 'kill', 'cpu', 'partition', 'script', 'wait', 'parallel', 'on', 'pick', 'for']) {
    expect(step.has(word), `${word} is not proposed below a step; proposed are ${[...step.keys()].join(', ')}`);
    expect(JSON.stringify(step.get(word)?.documentation ?? '').includes(explained('Step', word).slice(0, 20)),
      `${word} is proposed without its help: ${JSON.stringify(step.get(word)?.documentation)}`);
  }
  expect(!step.has('name'), 'name is proposed again');
  const fault = await proposedIn(`${head}method:\n  - network:\n      |\n`);
  expect(fault.has('delay') && fault.has('loss') && !fault.has('wait'),
    `below network are proposed ${[...fault.keys()].join(', ')}`);
  const top = await proposedIn('plan: p\n|\n');
  expect(top.has('steady_state') && top.has('method'), `at the top are proposed ${[...top.keys()].join(', ')}`);

  // Values.
  const words = await proposedIn(`${head}method:\n  - network:\n      direction: |\n`);
  expect(['egress', 'ingress', 'both'].every((word) => words.has(word)),
    `of direction are proposed ${[...words.keys()].join(', ')}`);

  // Explanations.
  const delay = await explainedIn(`${head}method:\n  - network: {del|ay: 200ms}\n    for: 1s\n`);
  expect(delay.includes(explained('Network', 'delay')), `delay is explained so: ${delay}`);
  expect(delay.includes('200ms'), `delay is explained without an example: ${delay}`);
  const network = await explainedIn(`${head}method:\n  - net|work: {delay: 200ms}\n    for: 1s\n`);
  expect(network.includes(explained('Step', 'network')), `network is explained so: ${network}`);
  const direction = await explainedIn(`${head}method:\n  - network: {delay: 1ms, direc|tion: egress}\n    for: 1s\n`);
  expect(direction.includes(explained('Network', 'direction')), `direction is explained so: ${direction}`);

  // Marks, in words that say what would be right.
  for (const [text, ...wanted] of [
    [`${head}method:\n  - on: db\n    network: {delay: 200}\n    for: 1s\n`,
      '6: a duration such as 200ms, its unit one of ns, us, ms, s, m, h'],
    [`${head}method:\n  - on: db\n    network: {dealy: 200ms, loss: 1%}\n    for: 1s\n`,
      '6: Property dealy is not allowed.'],
    [`${head}method:\n  - on: db\n    cpu: {load: 1%}\n    memory: {to: 1%}\n    for: 1s\n`,
      '7: cannot stand beside `cpu`', '6: cannot stand beside `memory`'],
    [`${head}method:\n  - on: db\n    memory: {keep_free: 1GiB}\n    for: 1s\n`, '6: Missing property "size".'],
    [`${head}method:\n  - on: db\n    network: {delay: 1ms}\n`, '5: Missing property "for".'],
    [`${head}method:\n  - on: db\n    network: {delay: 1ms, direction: up}\n    for: 1s\n`,
      '6: Value is not accepted. Valid values: "egress", "ingress", "both".'],
    [`${head}method:\n  - wait: 1s\nsteady_state:\n  - name: a\n    tcp: {address: a}\n    expect: [state is open]\n`,
      '8: host:port, such as 127.0.0.1:5432',
      '9: an expectation such as status == 200 or p99 < 300ms over 10s: metric, operator, quantity'],
  ]) {
    const marked = await markedIn(text);
    expect(JSON.stringify(marked.sort()) === JSON.stringify(wanted.sort()),
      `of\n${text}is said\n  ${marked.join('\n  ')}\nand not\n  ${wanted.join('\n  ')}`);
  }

  // What is right is not marked.
  for (const {name, text} of plansOfTheRepository()) {
    const marked = await markedIn(text.replace(/^# yaml-language-server.*\n/, ''));
    expect(marked.length === 0, `in ${name} is marked: ${marked.join('; ')}`);
  }
}

// A server that says nothing must not outlive the test.
const deadline = setTimeout(() => {
  console.error('FAILED: the language server did not answer within 90 s');
  server.kill('SIGKILL');
  process.exit(1);
}, 90_000);
let done = false;
server.on('exit', (code) => {
  if (done) return;
  console.error(`FAILED: the language server ended by itself, with ${code}`);
  process.exit(1);
});
try {
  await main();
} catch (thrown) {
  expect(false, thrown.stack);
}
done = true;
clearTimeout(deadline);
connection.dispose();
server.kill('SIGKILL');
if (failed === 0) console.log(`${opened} documents opened, all as they should be`);
process.exitCode = failed === 0 ? 0 : 1;
