// docs/squall.schema.json by ajv, held against what `squall validate` says of the same plans.
import Ajv from 'ajv';
import {spawnSync} from 'node:child_process';
import {mkdtempSync, readFileSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {parse} from 'yaml';
import {faultsOfThePages, plansOfTheRepository, right, root, wrong} from './plans.mjs';

const squall = join(process.argv[2], 'squall');
const schema = JSON.parse(readFileSync(join(root, 'docs', 'squall.schema.json'), 'utf8'));
const ajv = new Ajv({strict: true, allowUnionTypes: true, allErrors: true});
ajv.addKeyword('errorMessage');
const isRight = ajv.compile(schema);

let failed = 0;
function fail(text) {
  ++failed;
  console.error(`FAILED: ${text}`);
}

/** What is wrong with each by Squall, by its number; nothing where it is valid. */
function bySquall(plans) {
  const folder = mkdtempSync(join(tmpdir(), 'squall-schema-'));
  try {
    const files = plans.map(({path, text}, number) => {
      if (path !== undefined) return path;  // where the files that it names are
      const file = join(folder, `${number}.yaml`);
      writeFileSync(file, text);
      return file;
    });
    const {status, stdout, stderr} = spawnSync(squall, ['validate', '-o', 'json', ...files], {encoding: 'utf8'});
    if (status !== 0 && status !== 2) throw new Error(`squall validate exited with ${status}: ${stderr}`);
    const {diagnostics} = JSON.parse(stdout);
    return files.map((file) => diagnostics
      .filter(({range, severity}) => range.filename === file && severity === 'error')
      .map(({summary, range}) => `  line ${range.start.line}: ${summary}`).join('\n'));
  } finally {
    rmSync(folder, {recursive: true});
  }
}

function bySchema(text) {
  return isRight(parse(text)) ? '' : ajv.errorsText(isRight.errors);
}

function judge(plans, shouldBeRight) {
  bySquall(plans).forEach((told, number) => {
    const {name, text} = plans[number];
    const errors = bySchema(text);
    if (shouldBeRight) {
      if (told !== '') fail(`${name}: squall refuses it:\n${told}`);
      if (errors !== '') fail(`${name}: the schema refuses it: ${errors}`);
    } else {
      if (told === '') fail(`${name}: squall takes it`);
      if (errors === '') fail(`${name}: the schema takes it; squall says:\n${told}`);
    }
  });
}

const named = (plans) => Object.entries(plans).map(([name, text]) => ({name, text}));

const ours = [...plansOfTheRepository(), ...faultsOfThePages()];
if (ours.length < 20) fail(`only ${ours.length} plans were found in the repository`);
judge(ours, true);
judge(named(right), true);
judge(named(wrong), false);

// A parameter may stand for any scalar, whatever that is. Squall itself is not asked: it would want the parameter.
for (const [name, text] of Object.entries({
  'a duration': right['networks and addresses'].replace('1ms', '"${delay}"'),
  'a part of a text': right['names to resolve'].replace('api.example.com', '"${api}.example.com"'),
  'a number': right['cores by number'].replace('[0, 2]', '["${core}"]'),
  'a truth': right['a truth'].replace('true', '"${ecn}"'),
  'a word': right['a word in the other case'].replace('BOTH', '"${direction}"'),
  'a port': right['ports and ranges of them'].replace('443', '"${port}"'),
  'a part of an expectation': right['headers and a body'].replace('[status == 200]', '["status == ${wanted}"]'),
  'a pick': right['a number of nodes'].replace('pick: 1', 'pick: "${several}"'),
  'a selector': right['all nodes by a word'].replace('on: all', 'on: "${victim}"'),
})) {
  if (!text.includes('${')) fail(`${name}: no parameter is in it`);
  const errors = bySchema(text);
  if (errors !== '') fail(`${name} that is a parameter: the schema refuses it: ${errors}`);
}
if (bySchema(right['networks and addresses'].replace('1ms', '"$delay"')) === '') {
  fail('$delay is taken for a parameter');
}

// What the schema itself proposes must be right by it.
let proposed = 0;
function walk(part, path) {
  if (part === null || typeof part !== 'object') return;
  if (Array.isArray(part)) {
    part.forEach((item, number) => walk(item, `${path}/${number}`));
    return;
  }
  // A key of the language may be called as one of the schema's own.
  const isSchema = !path.endsWith('/properties') && ('type' in part || '$ref' in part || 'anyOf' in part || 'if' in part);
  const proposals = isSchema ? [...(part.examples ?? []), ...('default' in part ? [part.default] : [])] : [];
  if (proposals.length > 0) {
    const {examples, default: byDefault, $schema, ...bare} = part;
    const fits = new Ajv({strict: true, allowUnionTypes: true}).addKeyword('errorMessage')
      .compile({...bare, definitions: schema.definitions});
    for (const proposal of proposals) {
      ++proposed;
      if (fits(proposal)) continue;
      fail(`${path}: ${JSON.stringify(proposal)} is proposed, and wrong: ${ajv.errorsText(fits.errors)}`);
    }
  }
  for (const [key, value] of Object.entries(part)) {
    if (!isSchema || (key !== 'examples' && key !== 'default')) walk(value, `${path}/${key}`);
  }
}
walk(schema, '#');
if (proposed < 100) fail(`the schema proposes only ${proposed} examples and defaults`);

const taken = ours.length + Object.keys(right).length;
console.log(`${taken} right plans, ${Object.keys(wrong).length} wrong ones, ${proposed} proposals`);
process.exitCode = failed === 0 ? 0 : 1;
