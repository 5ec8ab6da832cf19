// The plans that Squall and a validator of others are both asked about: those of the repository, and small ones that
// are right or wrong in one place.
import {readdirSync, readFileSync, statSync} from 'node:fs';
import {dirname, join, relative} from 'node:path';
import {fileURLToPath} from 'node:url';

export const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..');

function filesBelow(folder, ending) {
  return readdirSync(folder).sort().flatMap((name) => {
    const path = join(folder, name);
    if (statSync(path).isDirectory()) return filesBelow(path, ending);
    return name.endsWith(ending) ? [path] : [];
  });
}

/** What stands in the pages as YAML: where, and the text. */
function blocksOfThePages() {
  return [join(root, 'README.md'), ...filesBelow(join(root, 'docs'), '.md')].flatMap((path) =>
    [...readFileSync(path, 'utf8').matchAll(/^```yaml\n(.*?)^```$/gms)].map((found, number) => ({
      name: `${relative(root, path)}, block ${number + 1}`,
      text: found[1],
    })));
}

/** Every plan of the repository: the examples, and what the pages show whole. */
export function plansOfTheRepository() {
  const examples = filesBelow(join(root, 'examples'), '.yaml')
    .map((path) => ({name: relative(root, path), path, text: readFileSync(path, 'utf8')}))
    .filter(({text}) => /^plan: /m.test(text));
  return [...examples, ...blocksOfThePages().filter(({text}) => text.startsWith('plan: '))];
}

const nodes = `nodes:
  db: {address: "db:7411", labels: {role: db, zone: 1}}
  web: {address: "web:7411", labels: {role: web}}
`;
const steadyState = `steady_state:
  - name: shop answers
    http: {url: "http://shop.staging/"}
    expect: [status == 200]
`;
const method = 'method: [{wait: 1s}]\n';

const plan = (text) => `plan: small\n${nodes}${steadyState}${method}${text}\n`;
const step = (text) => `plan: small\n${nodes}${steadyState}method:\n  - ${text.replaceAll('\n', '\n    ')}\n`;
const fault = (text) => step(`{on: db, for: 10s, ${text}}`);
const check = (text) => `plan: small\n${nodes}${method}steady_state:\n  - ${text.replaceAll('\n', '\n    ')}\n`;

/** What the pages of the faults show, each made a plan: a method, with the nodes that it names, or one fault. */
export function faultsOfThePages() {
  return blocksOfThePages().filter(({name}) => name.startsWith('docs/faults/')).flatMap(({name, text}) => {
    if (/^network: .*\n$/.test(text)) return [{name, text: step(`on: db\nfor: 10s\n${text.trim()}`)}];
    if (!text.startsWith('method:')) return [];
    const named = new Set([...text.matchAll(/\bon: ([a-z0-9-]+)/g)].map((found) => found[1]));
    const theirs = [...named].map((node) => `  ${node}: {address: "${node}:7411"}\n`).join('');
    return [{name, text: `plan: shown\nnodes:\n${theirs}${steadyState}${text}`}];
  });
}

const http = (text) => check(`name: shop\nhttp: {url: "http://shop.staging/"}\n${text}`);

/** Each is right, in a form that a plan may be written in. */
export const right = {
  'all that a plan may say of itself': plan('hypothesis: it holds\nenvironment: staging\ntags: [one, 2]\n' +
    'recovery: {within: 1m}\nlease: 1.5 s\nseed: 18446744073709551615'),
  'recovery with nothing in it': plan('recovery:'),
  'a title that looks like a number': plan('').replace('plan: small', 'plan: 42'),
  'a node without anything': 'plan: small\nnodes: {local: }\n' + steadyState + method,
  'a socket for an address': 'plan: small\nnodes: {local: {address: "unix:/run/x"}}\n' + steadyState + method,
  'labels that look like numbers': step('{on: {zone: 1}, cpu: {load: 1%}, for: 1s}'),
  'all nodes by a word': step('{on: all, cpu: {load: 1%}, for: 1s}'),
  'all nodes by a mapping': step('{on: {all: true}, cpu: {load: 1%}, for: 1s}'),
  'a number of nodes': step('{on: all, pick: 1, cpu: {load: 1%}, for: 1s}'),
  'a share of the nodes': step('{on: all, pick: 12.5%, cpu: {load: 1%}, for: 1s}'),
  'a majority of the nodes': step('{on: all, pick: majority, cpu: {load: 1%}, for: 1s}'),
  'steps in steps': step('parallel:\n  - {wait: 1s}\n  - parallel: [{wait: 1s}]'),
  'networks and addresses': fault('network: {delay: 1ms, to: {cidrs: [10.0.0.0/8, "2001:db8::/32", 10.1.2.3]}}'),
  'ports and ranges of them': fault('network: {delay: 1ms, to: {ports: [443, 8000-8010, "53"]}}'),
  'protocols by word and number': fault('network: {delay: 1ms, to: {protocols: [tcp, 47, icmpv6]}}'),
  'a word in the other case': fault('network: {delay: 1ms, direction: BOTH}'),
  'a default that is written out beside what excludes it':
    fault('network: {delay: 1ms, from: {ports: [1]}, direction: egress}'),
  'a number below nothing': fault('network: {rate: 10mbit, packet_overhead: -14}'),
  'a truth': fault('network: {loss: 0.5 %, ecn: true}'),
  'processes by what looks like a number': fault('pause: {process: {user: 1000, container: 123456789012}}'),
  'the oldest process': step('{on: db, kill: {process: {name: nginx}, pick: oldest, signal: term, grace: 1s}}'),
  'a kill that lasts': fault('kill: {process: {name: nginx}, respawn: watch}'),
  'cores by number': fault('cpu: {load: 100%, on_cores: [0, 2]}'),
  'sizes': fault('memory: {size: 1.5GiB, rate: 100MB, keep_free: 16777216B}'),
  'names to resolve': fault('dns: {names: ["*", "*.internal", api.example.com], addresses: ["2001:db8::9"]}'),
  'a program with numbers for arguments': fault('script: {run: [/bin/sleep, 1], undo: [/bin/true]}'),
  'a partition': step('{for: 1s, partition: {between: [db, {role: web}], one_way: true}}'),
  'every operator': http('every: 1s\nexpect: [status != 500, "status in [200, 204]", latency between 1ms and 1s,' +
    ' body contains ok, body matches ^ok, p99<=1.5 x baseline over 10s for 2s]'),
  'headers and a body': check('name: x\nhttp: {url: "HTTPS://[::1]:80/", method: post, headers: {X-A: 1}, body: 2}\n' +
    'expect: [status == 200]\non_breach: note\nno_data: ok'),
  'parameters, short and whole': plan('params: {delay: 1ms, role: {default: db, one_of: [db, web], help: who, type: text}}')
    .replace('[{wait: 1s}]', '[{wait: "${delay}"}, {on: {role: "${role}"}, cpu: {load: 1%}, for: 1s}]'),
  'steps that are repeated': step('repeat: {times: 3, every: 20s, steps: [{wait: 1s}]}'),
  'a question': step('ask: has the pager gone off?'),
  'a fault that comes and goes': fault('pulse: {on: 1s, off: 2s}, network: {loss: 1%}'),
  'numbers that change': fault('network: {delay: {from: 0ms, to: 400ms, over: 5s}, loss: {from: 10%, to: 1%, over: 1s}}'),
  'a number that is looked for': fault('network: {rate: {find: {from: 100mbit, to: 1mbit, resolution: 1mbit}}}'),
  'a plain number that is looked for': fault('cpu: {load: 1%, cores: {find: {from: 1, to: 4, resolution: 1}}}'),
  'a program and its environment': check('name: x\nexec: {run: ["true"], env: {A: 1}}\nexpect: [exit == 0]'),
};

/** Each is wrong in one way that a schema can know. */
export const wrong = {
  'no mapping': '- plan\n',
  'no title': `${nodes}${steadyState}${method}`,
  'no nodes': `plan: small\n${steadyState}${method}`,
  'no method': `plan: small\n${nodes}${steadyState}`,
  'nodes that are none': 'plan: small\nnodes: {}\n' + steadyState + method,
  'a name that no node can have': 'plan: small\nnodes: {"a b": {}}\n' + steadyState + method,
  'an address without a port': 'plan: small\nnodes: {db: {address: db}}\n' + steadyState + method,
  'a method without a step': `plan: small\n${nodes}${steadyState}method: []\n`,
  'a method that is one step': `plan: small\n${nodes}${steadyState}method: {wait: 1s}\n`,
  'an unknown key of the plan': plan('retries: 3'),
  'an unknown key of a step': step('wait: 1s\nretries: 3'),
  'an unknown key of a fault': fault('network: {dealy: 200ms}'),
  'an unknown key of a check': http('expect: [status == 200]\nretries: 3'),
  'an unknown key deep inside': fault('network: {delay: 1ms, to: {prots: [1]}}'),
  'a lease without a unit': plan('lease: 5'),
  'a lease in a unit that is none': plan('lease: 5sec'),
  'a lease below nothing': plan('lease: -5s'),
  'a lease with an exponent': plan('lease: 1e1s'),
  'a lease that is a list': plan('lease: [5s]'),
  'a seed that is a word': plan('seed: fortytwo'),
  'a seed below nothing': plan('seed: -1'),
  'tags that are one word': plan('tags: checkout'),
  'a step that does nothing': step('name: nothing'),
  'a step that is a text': step('wait'),
  'two faults in one step': step('on: db\nfor: 1s\ncpu: {load: 1%}\nkill: {process: {name: a}}'),
  'a fault and a wait in one step': step('on: db\nwait: 1s\nkill: {process: {name: a}}'),
  'a wait and steps in one step': step('wait: 1s\nparallel: [{wait: 1s}]'),
  'a wait that lasts': step('wait: 1s\nfor: 1s'),
  'a parallel without a step': step('parallel: []'),
  'a fault that does not say how long': step('{on: db, network: {delay: 1ms}}'),
  'a kill that lasts for nothing': step('{on: db, for: 1s, kill: {process: {name: a}}}'),
  'a fault that is nothing': fault('network: {}'),
  'a fault that is null': fault('network: '),
  'a fault that is a text': fault('network: slow'),
  'a share that is none': fault('network: {loss: 1}'),
  'a rate in bytes': fault('network: {rate: 1MB}'),
  'a number that is too large': fault('network: {rate: 1mbit, cell_size: 65536}'),
  'a number that is too small': fault('pause: {process: {pid: 1}}'),
  'a number that is a fraction': fault('cpu: {load: 1%, cores: 1.5}'),
  'a word that is unknown': fault('network: {delay: 1ms, direction: sideways}'),
  'a signal that is a number': step('{on: db, kill: {process: {name: a}, signal: 9}}'),
  'a truth that is yes': fault('network: {loss: 1%, ecn: yes}'),
  'what needs another': fault('network: {loss: 1%, jitter: 1ms}'),
  'what excludes another': fault('cpu: {load: 1%, cores: 1, on_cores: [0]}'),
  'what excludes a message': fault('network: {delay: 1ms, to: {ports: [1]}, from: {ports: [2]}}'),
  'nothing of what one is needed': fault('memory: {keep_free: 1GiB}'),
  'no process at all': fault('pause: {process: {}}'),
  'what is required inside': fault('cpu: {cores: 1}'),
  'a network that is a name': fault('network: {delay: 1ms, to: {cidrs: [db]}}'),
  'a port that is none': fault('network: {delay: 1ms, to: {ports: [65536]}}'),
  'a port that is a word': fault('network: {delay: 1ms, to: {ports: [http]}}'),
  'a protocol that is unknown': fault('network: {delay: 1ms, to: {protocols: [tpc]}}'),
  'a protocol that is too large': fault('network: {delay: 1ms, to: {protocols: [256]}}'),
  'an interface that is too long': fault('network: {delay: 1ms, interface: a-name-that-is-too-long}'),
  'a path that is not whole': fault('files: {path: etc/shop.conf}'),
  'a unit without a type': fault('service: {unit: nginx}'),
  'an address that is none': fault('dns: {names: [a], addresses: [elsewhere]}'),
  'an argument that is a list': fault('script: {run: [[/bin/true]], undo: [/bin/true]}'),
  'a pick of nothing': step('{on: all, pick: 0, cpu: {load: 1%}, for: 1s}'),
  'a pick that is unknown': step('{on: all, pick: most, cpu: {load: 1%}, for: 1s}'),
  'a selector that is a list': step('{on: [db, web], cpu: {load: 1%}, for: 1s}'),
  'a selector of nothing': step('{on: {}, cpu: {load: 1%}, for: 1s}'),
  'a parameter that is a list': plan('params: {delay: [1ms]}'),
  'an unknown key of a parameter': plan('params: {delay: {default: 1ms, hlep: x}}'),
  'a type that is none': plan('params: {delay: {default: 1ms, type: time}}'),
  'steps repeated no times': step('repeat: {times: 0, steps: [{wait: 1s}]}'),
  'nothing that is repeated': step('repeat: {times: 3}'),
  'a wait that comes and goes': step('wait: 1s\npulse: {on: 1s, off: 1s}'),
  'a pulse that is never off': fault('pulse: {on: 1s}, network: {loss: 1%}'),
  'a ramp that takes no time': fault('network: {delay: {from: 0ms, to: 400ms}}'),
  'a ramp of what cannot change': fault('network: {delay: 1s, reorder: 1%, gap: {from: 1, to: 5, over: 1s}}'),
  'a ramp in another unit': fault('network: {delay: {from: 0%, to: 400ms, over: 5s}}'),
  'a search that does not say how exactly': fault('network: {delay: {find: {from: 0ms, to: 1s}}}'),
  'a search and a ramp in one': fault('network: {delay: {find: {from: 0ms, to: 1s, resolution: 1ms}, over: 1s}}'),
  'a check without a name': check('http: {url: "http://a/"}\nexpect: [status == 200]'),
  'a check without a kind': check('name: x\nexpect: [status == 200]'),
  'a check of two kinds': http('tcp: {address: "a:1"}\nexpect: [status == 200]'),
  'a check that expects nothing': http('every: 1s'),
  'an expectation that is no list': http('expect: status == 200'),
  'an expectation of an unknown metric': http('expect: [speed > 1]'),
  'an expectation with an unknown operator': http('expect: [status = 200]'),
  'an expectation without a quantity': http('expect: [status ==]'),
  'a URL of another sort': check('name: x\nhttp: {url: "ftp://a/"}\nexpect: [status == 200]'),
  'a host without a port': check('name: x\ntcp: {address: a}\nexpect: [state == open]'),
  'what a breach does not do': http('expect: [status == 200]\non_breach: panic'),
};
