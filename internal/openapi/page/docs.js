'use strict';

// Shows ../openapi.json and makes the calls that it describes. All text of the document goes in as text, never as markup.
const make = (tag, attributes = {}, ...children) => {
  const e = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) e.setAttribute(name, value);
  e.append(...children);
  return e;
};

const resolve = (doc, schema) => {
  if (!schema || !schema.$ref) return schema || {};
  return doc.components.schemas[schema.$ref.split('/').pop()] || {};
};

// example is a value of a schema, as deep as is useful.
const example = (doc, schema, depth = 0) => {
  const s = resolve(doc, schema);
  if (s.enum) return s.enum[0];
  const type = Array.isArray(s.type) ? s.type[0] : s.type;
  if (type === 'object' && s.properties) {
    if (depth > 3) return {};
    return Object.fromEntries(Object.entries(s.properties).map(([k, v]) => [k, example(doc, v, depth + 1)]));
  }
  if (type === 'array') return depth > 3 ? [] : [example(doc, s.items, depth + 1)];
  if (type === 'integer' || type === 'number') return s.minimum || 0;
  if (type === 'boolean') return false;
  return type === 'string' ? '' : {};
};

const typeOf = (schema) => {
  if (!schema) return '';
  if (schema.$ref) return schema.$ref.split('/').pop();
  if (schema.type === 'array') return typeOf(schema.items) + '[]';
  return [].concat(schema.type || 'any').join(' or ');
};

const call = async (op, inputs, body, out) => {
  let path = op.path;
  const query = new URLSearchParams();
  const headers = { Accept: 'application/json' };
  for (const { p, input } of inputs) {
    if (p.in === 'path') path = path.replace('{' + p.name + '}', encodeURIComponent(input.value));
    else if (input.value && p.in === 'query') query.append(p.name, input.value);
    else if (input.value && p.in === 'header') headers[p.name] = input.value;
  }
  const token = document.getElementById('token').value;
  if (token) headers.Authorization = 'Bearer ' + token;
  const init = { method: op.verb.toUpperCase(), headers };
  if (body) {
    headers['Content-Type'] = 'application/json';
    init.body = body.value;
  }
  const url = path + (query.size ? '?' + query : '');
  try {
    const begun = performance.now();
    const res = await fetch(url, init);
    const text = await res.text();
    const took = (performance.now() - begun).toFixed(1);
    const shown = ['etag', 'location', 'link', 'nearside-bookmark', 'nearside-source', 'nearside-region', 'retry-after']
      .filter((name) => res.headers.has(name)).map((name) => name + ': ' + res.headers.get(name));
    let pretty = text;
    try { pretty = JSON.stringify(JSON.parse(text), null, 2); } catch { /* it is no JSON */ }
    out.textContent = [res.status + ' ' + res.statusText + ' (' + took + ' ms)', ...shown, '', pretty].join('\n');
  } catch (err) {
    out.textContent = String(err);
  }
};

const operation = (doc, op) => {
  const inputs = [];
  const content = make('div');
  if (op.description) content.append(make('p', {}, op.description));
  if (op.parameters) {
    const rows = op.parameters.map((p) => {
      const input = make('input', { 'aria-label': p.name });
      inputs.push({ p, input });
      return make('tr', {}, make('td', {}, make('code', {}, p.name), p.required ? ' *' : ''), make('td', {}, p.in),
        make('td', {}, typeOf(p.schema)), make('td', {}, p.description || ''), make('td', {}, input));
    });
    content.append(make('table', {}, ...rows));
  }
  let body;
  if (op.requestBody) {
    body = make('textarea', { 'aria-label': 'request body', spellcheck: 'false' });
    body.value = JSON.stringify(example(doc, op.requestBody.content['application/json'].schema), null, 2);
    content.append(make('p', {}, 'Request body'), body);
  }
  const out = make('pre', { role: 'status' });
  const button = make('button', { type: 'button' }, 'Send');
  button.addEventListener('click', () => call(op, inputs, body, out));
  content.append(make('p', {}, button), out);
  const e = make('details', { class: 'operation', id: op.operationId }, make('summary', {},
    make('span', { class: 'verb' }, op.verb.toUpperCase()), make('code', {}, op.path), ' ', op.summary || ''), content);
  e.dataset.text = (op.path + ' ' + op.operationId + ' ' + (op.description || '')).toLowerCase();
  return e;
};

const show = async () => {
  const main = document.getElementById('operations');
  const doc = await (await fetch('../openapi.json')).json();
  document.getElementById('about').textContent = doc.info.description;
  for (const tag of doc.tags) {
    const section = make('section', {}, make('h2', {}, tag.name));
    if (tag.description) section.append(make('p', {}, tag.description));
    for (const [path, item] of Object.entries(doc.paths)) {
      for (const [verb, op] of Object.entries(item)) {
        if (op.tags.includes(tag.name)) section.append(operation(doc, { ...op, path, verb }));
      }
    }
    main.append(section);
  }
  document.getElementById('find').addEventListener('input', (event) => {
    const wanted = event.target.value.toLowerCase();
    for (const e of document.querySelectorAll('details.operation')) e.hidden = !e.dataset.text.includes(wanted);
  });
};

show().catch((err) => { document.getElementById('operations').textContent = String(err); });
