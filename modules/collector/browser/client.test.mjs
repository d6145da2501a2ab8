// The client under Node: `node --test modules/collector/browser`. What needs a
// browser is in the Go tests beside this file, which also run this one.
import { test } from 'node:test'
import assert from 'node:assert/strict'
import { createServer } from 'node:http'
import { createClient } from './client.js'

/** A collector as CONTRACTS.md has it; script holds [status, headers] or functions for the next answers. */
async function fakeCollector(t, { maxBytes = 8 << 20 } = {}) {
  const it = { script: [], requests: [], stored: [] }
  const server = createServer(async (request, response) => {
    const chunks = []
    for await (const chunk of request) chunks.push(chunk)
    const raw = Buffer.concat(chunks)
    const { events } = JSON.parse(raw)
    it.requests.push({ at: Date.now(), url: request.url, headers: request.headers, size: raw.length, events })
    const answer = (status, body, headers = {}) => {
      response.writeHead(status, { 'Content-Type': 'application/json', ...headers })
      response.end(JSON.stringify(body))
    }
    const next = it.script.shift()
    if (next === 'lost') return request.socket.destroy()
    if (next && next !== 'stored but lost') return answer(next[0], { title: 'scripted', detail: 'scripted ' + next[0] }, next[1]?.())
    if (request.headers.authorization !== 'Bearer sb_web_secret') return answer(401, {})
    if (raw.length > maxBytes) return answer(413, {})
    const bad = e => 'bad' in e.data
    for (const e of events) if (!bad(e) && !it.stored.some(s => s.id === e.id)) it.stored.push(e)
    if (next) return request.socket.destroy()
    if (events.every(bad)) {
      return answer(422, { detail: 'none acceptable', errors: events.map((_, i) => ({ location: `body.events[${i}].data.bad`, message: 'unexpected' })) })
    }
    const rejected = events.flatMap((e, index) => bad(e) ? [{ index, errors: [{ location: 'data.bad', message: 'unexpected' }] }] : [])
    answer(202, { accepted: events.length - rejected.length, rejected: rejected.length ? rejected : null, ids: events.map(e => e.id) })
  })
  await new Promise(resolve => server.listen(0, '127.0.0.1', resolve))
  t.after(() => { server.closeAllConnections(); server.close() })
  it.url = `http://127.0.0.1:${server.address().port}`
  it.names = () => it.stored.map(e => e.name)
  it.server = server
  return it
}

function client(t, collector, options = {}) {
  const errors = []
  const c = createClient({ url: collector.url + '/', key: 'sb_web_secret', flushInterval: 20, onError: e => errors.push(e), ...options })
  t.after(() => c.close())
  return Object.assign(c, { errors })
}

const until = async condition => {
  for (let i = 0; !condition(); i++) {
    assert.ok(i < 1000, 'waited for ' + condition)
    await new Promise(resolve => setTimeout(resolve, 10))
  }
}

/** localStorage's shape; room in entries. */
class FakeStorage {
  map = new Map()
  constructor(room = Infinity) { this.room = room }
  get length() { return this.map.size }
  key(i) { return [...this.map.keys()][i] ?? null }
  getItem(name) { return this.map.get(name) ?? null }
  removeItem(name) { this.map.delete(name) }
  setItem(name, value) {
    if (this.map.size >= this.room && !this.map.has(name)) throw new Error('QuotaExceededError')
    this.map.set(name, value)
  }
}

test('an event gets id, time, session and user when it is tracked', async t => {
  const collector = await fakeCollector(t)
  const c = client(t, collector, { userId: 'u1' })
  const before = Date.now()
  const id = c.track('page interaction', 'pageview', { path: '/' })
  c.userId = 'u2'
  c.track('c', 'n')
  c.track('c', 'n', {}, { id: 'mine', timestamp: '2021-01-01 09:15:27.243860', session: 's', userId: 'u3' })
  c.track('c', 'n', {}, { id: 'mine' })
  c.track('c', 'n', {}, { timestamp: new Date(0) })
  assert.equal(await c.flush(), 0)
  const [a, b, mine, old] = collector.stored
  assert.equal(collector.stored.length, 4)
  assert.match(id, /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/)
  assert.deepEqual({ ...a, timestamp: 0 }, { id, session_id: c.session, user_id: 'u1', category: 'page interaction', name: 'pageview', data: { path: '/' }, timestamp: 0 })
  assert.ok(Date.parse(a.timestamp) >= before && Date.parse(a.timestamp) <= Date.now() && a.timestamp.endsWith('Z'))
  assert.ok(Math.abs(parseInt(id.replace('-', '').slice(0, 12), 16) - Date.parse(a.timestamp)) < 1000)
  assert.equal(b.user_id, 'u2')
  assert.deepEqual([mine.id, mine.timestamp, mine.session_id, mine.user_id], ['mine', '2021-01-01 09:15:27.243860', 's', 'u3'])
  assert.equal(old.timestamp, '1970-01-01T00:00:00.000Z')
  assert.equal(collector.requests.length, 1)
})

test('without crypto ids are made all the same', { skip: !Object.getOwnPropertyDescriptor(globalThis, 'crypto')?.configurable }, async t => {
  const saved = Object.getOwnPropertyDescriptor(globalThis, 'crypto')
  Object.defineProperty(globalThis, 'crypto', { value: undefined, configurable: true })
  t.after(() => Object.defineProperty(globalThis, 'crypto', saved))
  const c = client(t, await fakeCollector(t))
  const ids = Array.from({ length: 500 }, () => c.track('c', 'n'))
  assert.deepEqual(ids, [...new Set(ids)].sort())
  for (const id of ids) assert.match(id, /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/)
})

test('batches go out in order, and a full one at once', async t => {
  const collector = await fakeCollector(t)
  const c = client(t, collector, { maxBatch: 10, flushInterval: 1e6 })
  const names = Array.from({ length: 25 }, (_, i) => 'e' + i)
  for (const name of names.slice(0, 10)) c.track('c', name)
  await until(() => collector.stored.length === 10)
  for (const name of names.slice(10)) c.track('c', name)
  assert.equal(await c.flush(), 0)
  assert.deepEqual(collector.names(), names)
  assert.deepEqual(collector.requests.map(r => r.events.length), [10, 10, 5])
})

test('a single event waits for its batch, but not for ever', async t => {
  const collector = await fakeCollector(t)
  const c = client(t, collector, { flushInterval: 300 })
  const begin = Date.now()
  c.track('c', 'a')
  await until(() => collector.stored.length)
  assert.ok(Date.now() - begin >= 290)
})

test('what can not be queued is told and never thrown', async t => {
  const collector = await fakeCollector(t)
  const c = client(t, collector, { maxQueue: 2 })
  const circle = {}
  circle.circle = circle
  const bad = [['', 'n'], ['c', ''], ['c', 7], ['c', 'n', 'text'], ['c', 'n', [1]], ['c', 'n', circle], ['c', 'n', { n: 1n }], ['c', 'n', () => {}],
    ['c', 'n', {}, { session: 'ж'.repeat(257) }], ['c', 'n', {}, { timestamp: NaN }]]
  for (const args of bad) assert.equal(c.track(...args), undefined)
  assert.deepEqual(c.errors.map(e => e.kind), bad.map(() => 'invalid'))
  assert.ok(c.errors[0] instanceof Error)
  assert.ok(c.track('c', 'a') && c.track('c', 'b', null, { session: 'ж'.repeat(256) }))
  assert.equal(c.track('c', 'd'), undefined)
  assert.equal(c.errors.at(-1).kind, 'full')
  assert.equal(c.queued, 2)
  assert.equal(await c.close(), 0)
  assert.deepEqual(collector.names(), ['a', 'b'])
  assert.equal(c.track('c', 'e'), undefined)
  assert.equal(c.errors.at(-1).kind, 'closed')
  assert.throws(() => createClient({ url: 'x' }), TypeError)
  assert.throws(() => createClient({ key: 'x' }), TypeError)
})

test('a throwing onError harms nothing', async t => {
  const collector = await fakeCollector(t)
  const log = t.mock.method(console, 'error', () => {})
  const c = client(t, collector, { onError: () => { throw new Error('yours') } })
  c.track('', '')
  c.track('c', 'a', { bad: 1 })
  c.track('c', 'b')
  assert.equal(await c.flush(), 0)
  assert.equal(log.mock.callCount(), 2)
})

test('a lost answer, an outage and a foreign answer are retried under the same ids', async t => {
  const collector = await fakeCollector(t)
  const c = client(t, collector)
  collector.script.push('lost', 'stored but lost', [502], [202])
  c.track('c', 'a')
  c.track('c', 'b')
  for (let i = 4; i; i--) assert.equal(await c.flush(), 2)
  assert.equal(await c.flush(), 0)
  assert.equal(collector.requests.length, 5)
  for (const r of collector.requests) assert.deepEqual(r.events, collector.requests[0].events)
  assert.deepEqual(collector.names(), ['a', 'b'])
  assert.deepEqual(c.errors.map(e => [e.kind, e.status]), [['retry', undefined], ['retry', undefined], ['retry', 502], ['retry', 202]])
  assert.ok(c.errors.every((e, i) => e.retryIn <= 1000 * 2 ** i), 'back-off above its ceiling')
  assert.ok(c.errors[0].cause)
})

test('a retry comes by itself', async t => {
  const collector = await fakeCollector(t)
  const c = client(t, collector)
  collector.script.push([503])
  c.track('c', 'a')
  await until(() => collector.stored.length === 1)
  assert.equal(collector.requests.length, 2)
})

for (const [status, header] of [[429, () => '1'], [503, () => '1'], [507, () => new Date(Date.now() + 2000).toUTCString()]]) {
  test(`Retry-After of a ${status} is obeyed, also by flush`, async t => {
    const collector = await fakeCollector(t)
    const c = client(t, collector)
    collector.script.push([status, () => ({ 'Retry-After': header() })])
    c.track('c', 'a')
    assert.equal(await c.flush(), 1)
    assert.equal(await c.flush(), 1)
    assert.equal(collector.requests.length, 1)
    await until(() => collector.stored.length === 1)
    const [first, second] = collector.requests
    assert.ok(second.at - first.at >= 990, `after ${second.at - first.at} ms`)
    assert.equal(collector.requests.length, 2)
  })
}

test('rejected events are reported once, the others stored', async t => {
  const collector = await fakeCollector(t)
  const c = client(t, collector)
  c.track('c', 'a')
  const id = c.track('c', 'b', { bad: 1 })
  c.track('c', 'd')
  assert.equal(await c.flush(), 0)
  assert.deepEqual(collector.names(), ['a', 'd'])
  assert.equal(c.errors.length, 1)
  assert.deepEqual([c.errors[0].kind, c.errors[0].status], ['rejected', 202])
  const [{ event, errors }] = c.errors[0].events
  assert.deepEqual([event.id, event.data, errors], [id, { bad: 1 }, [{ location: 'data.bad', message: 'unexpected' }]])

  c.track('c', 'e', { bad: 2 })
  c.track('c', 'f', { bad: 3 })
  assert.equal(await c.flush(), 0)
  assert.deepEqual([c.errors[1].kind, c.errors[1].status], ['rejected', 422])
  assert.deepEqual(c.errors[1].events.map(e => e.errors.map(e => e.location)), [['body.events[0].data.bad'], ['body.events[1].data.bad']])
  collector.script.push([422])
  c.track('c', 'g')
  assert.equal(await c.flush(), 0)
  assert.equal(c.errors[2].events[0].errors[0].message, 'scripted 422')
  assert.equal(collector.requests.length, 3)
})

test('too large a batch is split, too large an event reported and dropped', async t => {
  const collector = await fakeCollector(t, { maxBytes: 2000 })
  const c = client(t, collector)
  const names = Array.from({ length: 30 }, (_, i) => 'e' + i)
  for (const name of names.slice(0, 15)) c.track('c', name)
  c.track('c', 'huge', { x: 'ж'.repeat(2000) })
  for (const name of names.slice(15)) c.track('c', name)
  assert.equal(await c.flush(), 0)
  assert.deepEqual(collector.names(), names)
  assert.deepEqual(c.errors.map(e => [e.kind, e.status, e.events.map(e => e.event.name)]), [['rejected', 413, ['huge']]])
  assert.ok(collector.requests.length < 25, collector.requests.length + ' requests')
})

for (const status of [400, 401, 403, 404]) {
  test(`a ${status} keeps the queue, is reported and retried slowly`, async t => {
    const collector = await fakeCollector(t)
    const c = client(t, collector)
    collector.script.push([status])
    c.track('c', 'a')
    assert.equal(await c.flush(), 1)
    assert.deepEqual([c.errors[0].kind, c.errors[0].status], ['refused', status])
    assert.ok(c.errors[0].retryIn >= 30000)
    assert.equal(await c.flush(), 0)
    assert.deepEqual(collector.names(), ['a'])
  })
}

test('what close leaves in memory is told', async t => {
  const collector = await fakeCollector(t)
  const c = client(t, collector)
  collector.script.push([503])
  c.track('c', 'a')
  assert.equal(await c.close(), 1)
  assert.deepEqual(c.errors.map(e => e.kind), ['retry', 'unsent'])
  assert.equal(c.errors[1].events[0].event.name, 'a')
  assert.equal(await c.close(), 0)
  assert.deepEqual(collector.names(), ['a'])
})

test('a storage keeps the queue for the next client of the same application', async t => {
  const collector = await fakeCollector(t)
  const storage = new FakeStorage()
  storage.setItem('yours', '1')
  const c = client(t, collector, { storage, app: 'web' })
  collector.script.push([503])
  c.track('c', 'a')
  c.track('c', 'b')
  assert.equal(await c.close(), 2)
  assert.equal(storage.length, 3)
  assert.ok(![...storage.map].join().includes('secret'), 'the key is stored')
  assert.deepEqual(c.errors.map(e => e.kind), ['retry'])

  const other = client(t, collector, { storage, app: 'other' })
  assert.equal(other.queued, 0)
  const next = client(t, collector, { storage, app: 'web' })
  assert.equal(next.queued, 2)
  await until(() => collector.stored.length === 2)
  await next.flush()
  assert.deepEqual([...storage.map], [['yours', '1']])
})

test('what storage does not take is kept in memory, in order', async t => {
  const collector = await fakeCollector(t)
  const c = client(t, collector, { storage: new FakeStorage(2), flushInterval: 1e6 })
  for (const name of ['a', 'b', 'd', 'e']) c.track('c', name)
  assert.equal(c.queued, 4)
  assert.equal(await c.flush(), 0)
  assert.deepEqual(collector.names(), ['a', 'b', 'd', 'e'])
  assert.deepEqual(c.errors, [])
})

test('many flushes at once send each event once', async t => {
  const collector = await fakeCollector(t)
  const c = client(t, collector, { maxBatch: 7 })
  const left = await Promise.all(Array.from({ length: 50 }, (_, i) => (c.track('c', 'e' + i), c.flush())))
  assert.equal(left.at(-1), 0)
  assert.equal(collector.requests.flatMap(r => r.events).length, 50)
  assert.equal(collector.stored.length, 50)
})

test('a client without work keeps no process alive', async t => {
  const { spawnSync } = await import('node:child_process')
  const script = `import { createClient } from ${JSON.stringify(new URL('./client.js', import.meta.url))}
    createClient({ url: 'http://127.0.0.1:1', key: 'k' })`
  const { status } = spawnSync(process.execPath, ['--input-type=module', '-e', script], { timeout: 10000 })
  assert.equal(status, 0)
})
