// A stock Socket.IO client at the product: who gets in, rooms, events, and what
// clients do wrong. The Go tests run this file once for each way of transport.
import { test } from 'node:test'
import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { call, connect, connected, drained, emit, emitNumbers, key, lost, numbers, open, received, refused, settled, token, transports, unique, until, upgradeAfter, upTo } from './support.mjs'

const limit = { timeout: 60_000 }
const MiB = 1 << 20
const body = name => readFile(new URL('testdata/' + name, import.meta.url), 'utf8')

test('a key, a token and ?token= let a client in', limit, async t => {
  for (const socket of [
    open(t, { token: key }),
    open(t, { token: await token([unique('room')]) }),
    open(t, {}, { query: { token: await token([unique('room')]) } }),
    open(t, {}, { query: { token: key } }),
  ]) {
    await connected(socket)
    await settled(socket)
    assert.equal(socket.io.engine.transport.name, transports?.[0] ?? 'websocket')
    assert.notEqual(socket.id, socket.io.engine.id, 'the session is a secret, the socket id is not')
  }
})

test('without a credential, or with a wrong one, a client is told so', limit, async t => {
  for (const auth of [{}, { token: '' }, { token: key + 'x' }, { token: 'a.b.c' }, { token: 7 }, { token: null }]) {
    const socket = open(t, auth)
    const error = await refused(socket)
    assert.equal(typeof error.message, 'string')
    assert.notEqual(error.message, '')
    assert.equal(socket.connected, false)
    assert.equal(socket.active, false, 'the server refused it: no use to try again')
    assert.ok(!error.message.includes(key))
  }
})

test('rooms at the handshake, by auth and by query', limit, async t => {
  const [a, b] = [unique('комната ✓'), unique('room')]
  const byAuth = await connect(t, { token: key, rooms: [a, b] })
  const byQuery = await connect(t, { token: key }, { query: { rooms: `${a},${b}` } })
  for (const room of [a, b]) {
    const event = unique('event')
    assert.equal((await emit(event, room, 1)).recipients, 2)
    await until(() => [byAuth, byQuery].every(s => received(s, event).length))
  }
})

for (const [join, leave] of [['join', 'leave'], ['join-room', 'leave-room']]) {
  test(`${join} and ${leave}, with a text and with an object`, limit, async t => {
    const room = unique('room')
    const socket = await connect(t)
    for (const form of [room, { room }]) {
      assert.deepEqual(await socket.emitWithAck(join, form), { ok: true, room })
      const event = unique('event')
      assert.deepEqual((({ event, room, recipients }) => ({ event, room, recipients }))(await emit(event, room, {})), { event, room, recipients: 1 })
      await until(() => received(socket, event).length)
      assert.deepEqual(await socket.emitWithAck(leave, form), { ok: true, room })
      assert.equal((await emit(event, room, {})).recipients, 0)
      await drained(socket)
      assert.equal(received(socket, event).length, 1)
    }
  })
}

test('joining without asking for an answer works', limit, async t => {
  const room = unique('room'), event = unique('event')
  const socket = await connect(t)
  socket.emit('join', room)
  await until(async () => (await emit(event, room, 1)).recipients === 1)
  await until(() => received(socket, event).length)
})

test('joining twice delivers once', limit, async t => {
  const room = unique('room'), event = unique('event')
  const socket = await connect(t, { token: key, rooms: [room, room] })
  for (const name of ['join', 'join-room', 'join']) assert.equal((await socket.emitWithAck(name, room)).ok, true)
  assert.equal((await emit(event, room, 1)).recipients, 1)
  await drained(socket)
  assert.equal(received(socket, event).length, 1)
})

test('a room that is no name is answered with an error', limit, async t => {
  const socket = await connect(t)
  for (const bad of ['', {}, { room: '' }, { room: 7 }, 7, null, true, [], ['a'], 'x'.repeat(257)]) {
    for (const name of ['join', 'leave']) {
      const answer = await socket.emitWithAck(name, bad)
      assert.equal(answer.ok, false, `${name} ${JSON.stringify(bad)}: ${JSON.stringify(answer)}`)
      assert.equal(typeof answer.error, 'string')
    }
  }
  socket.emit('join')
  assert.equal((await socket.emitWithAck('join', unique('room'))).ok, true)
})

test('a token opens only its rooms', limit, async t => {
  const [mine, foreign] = [unique('mine'), unique('foreign')]
  const auth = { token: await token([mine]) }
  const socket = await connect(t, auth)
  assert.deepEqual(await socket.emitWithAck('join', mine), { ok: true, room: mine })
  for (const form of [foreign, { room: foreign }]) {
    for (const name of ['join', 'join-room']) {
      const answer = await socket.emitWithAck(name, form)
      assert.equal(answer.ok, false)
      assert.equal(typeof answer.error, 'string')
    }
  }
  assert.equal((await emit(unique('event'), foreign, 1)).recipients, 0)
  assert.equal((await emit(unique('event'), mine, 1)).recipients, 1)

  // At the handshake it is refused, or let in without that room.
  const greedy = open(t, { ...auth, rooms: [foreign] })
  await new Promise(resolve => { greedy.once('connect', resolve); greedy.once('connect_error', resolve) })
  assert.equal((await emit(unique('event'), foreign, 1)).recipients, 0)
})

test('an event without a room reaches all, and each once', limit, async t => {
  const all = [await connect(t), await connect(t, { token: key, rooms: [unique('a')] }), await connect(t, { token: await token([unique('b')]) })]
  const event = unique('event')
  const { id, recipients, room } = await emit(event, undefined, { a: 1 })
  assert.equal(typeof id, 'string')
  assert.equal(room ?? '', '')
  assert.equal(recipients, 3)
  for (const s of all) await until(() => received(s, event).length)
  await emit(unique('later'), undefined, 1)
  await until(() => all.every(s => s.got.at(-1)[0].startsWith('later')))
  for (const s of all) assert.deepEqual(received(s, event), [{ a: 1 }])
})

test('an event to a room reaches its members and nobody else', limit, async t => {
  const [room, other] = [unique('room'), unique('room')]
  const members = [await connect(t, { token: key, rooms: [room] }), await connect(t, { token: key, rooms: [other, room] })]
  const rest = [await connect(t), await connect(t, { token: key, rooms: [other] }), await connect(t, { token: key, rooms: [room + 'x', room.slice(0, -1)] })]
  const gone = await connect(t, { token: key, rooms: [room] })
  await gone.emitWithAck('leave', room)
  const event = unique('event')
  for (const n of upTo(10)) assert.equal((await emit(event, room, { n })).recipients, 2)
  assert.equal((await emit(event, unique('empty'), { n: 0 })).recipients, 0)
  await until(() => members.every(s => received(s, event).length === 10))
  await emit('end', undefined, 1)
  await until(() => [...rest, gone, ...members].every(s => received(s, 'end').length))
  for (const s of members) assert.deepEqual(numbers(s, event), upTo(10))
  for (const s of [...rest, gone]) assert.deepEqual(s.got.map(([name]) => name), ['end'])
})

test('a socket that is gone is not counted', limit, async t => {
  const room = unique('room')
  const [stays, goes] = [await connect(t, { token: key, rooms: [room] }), await connect(t, { token: key, rooms: [room] })]
  assert.equal((await emit('event', room, 1)).recipients, 2)
  goes.disconnect()
  await until(async () => (await emit('event', room, 1)).recipients === 1)
  assert.ok(stays.connected)
})

test('the three published bodies arrive, and the broken one is refused', limit, async t => {
  const samples = Object.fromEntries(await Promise.all(['order.created', 'order.paid', 'customer.suscribed'].map(async name => [name, await body(name + '.json')])))
  const { room } = JSON.parse(samples['order.created'])
  const [member, guest] = [await connect(t, { token: key, rooms: [room] }), await connect(t)]
  for (const [name, text] of Object.entries(samples)) {
    const answer = await call('POST', '/events', text)
    assert.equal(answer.status, 201, answer.text)
    assert.equal(answer.json.event, name)
    assert.equal(answer.json.recipients, name === 'customer.suscribed' ? 2 : 1)
  }
  assert.equal((await call('POST', '/events', await body('customer.suscribed.as-published-invalid.txt'))).status, 400)
  await until(() => [member, guest].every(s => received(s, 'customer.suscribed').length))
  for (const [name, text] of Object.entries(samples)) {
    const { data } = JSON.parse(text)
    assert.deepEqual(received(member, name), [data])
    assert.equal(JSON.stringify(received(member, name)[0]), JSON.stringify(data), 'the order of its fields')
  }
  assert.deepEqual(guest.got.map(([name]) => name), ['customer.suscribed'])
})

test('data of every kind passes through', limit, async t => {
  const room = unique('room'), event = unique('event')
  const socket = await connect(t, { token: key, rooms: [room] })
  const values = [null, true, false, 0, -1.5, 1e300, '', 'text', '1', '["a"]', [], [1, [2]], {}, { z: 1, a: { b: null } },
    { '': '\u0000 \u2028 <b>&amp;</b> "\\' }, '🛒 заказ \ud83d\ude00', { _placeholder: true, num: 0 }, { nested: [{ _placeholder: true, num: 7 }] }]
  for (const data of values) await emit(event, room, data)
  await until(() => received(socket, event).length === values.length, () => JSON.stringify(received(socket, event)))
  assert.equal(JSON.stringify(received(socket, event)), JSON.stringify(values))
})

test('names in every script, as long as 256 bytes', limit, async t => {
  const names = ['заказ.создан', '注文 作成', '🛒', 'a b/c?d#e%f', '"quoted"', 'message', 'error', 'ping', 'join', '2', '42["x"]', '__proto__', 'x'.repeat(256), 'ж'.repeat(128)]
  const room = unique('комната №1/🏠')
  const socket = await connect(t)
  assert.deepEqual(await socket.emitWithAck('join', room), { ok: true, room })
  for (const name of names) assert.equal((await emit(name, room, name)).event, name)
  await until(() => socket.got.length === names.length, () => JSON.stringify(socket.got))
  assert.deepEqual(socket.got.map(([name, data]) => [name, data]), names.map(name => [name, name]))
  for (const name of ['', 'x'.repeat(257), 'ж'.repeat(129)]) assert.equal((await call('POST', '/events', { event: name, data: 1 })).status, 422)
})

test('reserved names are refused', limit, async t => {
  const socket = await connect(t)
  for (const event of ['connect', 'connect_error', 'disconnect', 'disconnecting', 'newListener', 'removeListener']) {
    assert.equal((await call('POST', '/events', { event, data: 1 })).status, 422, event)
    assert.equal((await call('POST', '/events', { events: [{ event, data: 1 }] })).status, 422, event)
  }
  await drained(socket)
  assert.equal(socket.got.length, 1)
})

test('a payload of 1 MiB arrives whole, a larger one is refused', limit, async t => {
  const room = unique('room'), event = unique('event')
  const socket = await connect(t, { token: key, rooms: [room] })
  const data = 'é'.repeat(1000) + 'x'.repeat(MiB - 2 - 2000)
  assert.equal(Buffer.byteLength(JSON.stringify(data)), MiB)
  for (let i = 0; i < 3; i++) {
    await emit(event, room, data)
    await until(() => received(socket, event).length === i + 1)
    assert.ok(received(socket, event)[i] === data)
  }
  const { status } = await call('POST', '/events', { event, room, data: data + 'x' })
  assert.ok(status === 413 || status === 422, status)
  assert.equal((await call('POST', '/events', { event, room, data: 'x'.repeat(9 * MiB) })).status, 413)
  await drained(socket)
  assert.equal(received(socket, event).length, 3)
  assert.ok(socket.connected)
  assert.equal(socket.recoveries.length, 1)
})

test('a batch arrives in its order', limit, async t => {
  const room = unique('room'), event = unique('event')
  const socket = await connect(t, { token: key, rooms: [room] })
  const { status, json, text } = await call('POST', '/events', { events: upTo(500).map(n => ({ event, room, data: { n } })) })
  assert.equal(status, 201, text)
  const answers = json.events ?? json.items
  assert.equal(answers.length, 500)
  assert.ok(answers.every(e => e.recipients === 1 && e.event === event && e.room === room))
  assert.equal(new Set(answers.map(e => e.id)).size, 500)
  await until(() => received(socket, event).length === 500)
  assert.deepEqual(numbers(socket, event), upTo(500))
})

test('events that nobody listens to are ignored, binary ones too', limit, async t => {
  const socket = await connect(t)
  socket.emit('nobody-listens', Buffer.from([0, 1, 2, 255]))
  socket.emit('nobody-listens', { deep: [Buffer.alloc(100_000, 7), 'text', new Uint8Array(3)] })
  socket.emit('nobody-listens', 1, null, 'x')
  socket.emit('заказ', { a: 1 })
  socket.emit('join', Buffer.from('room'))
  assert.equal((await socket.emitWithAck('join', unique('room'))).ok, true)
  assert.ok(socket.connected)
  assert.equal(socket.recoveries.length, 1)
})

test('acks come to the right calls, fifty at once included', limit, async t => {
  const socket = await connect(t)
  const room = unique('room')
  const answers = await Promise.all(upTo(50).map(n => socket.timeout(20_000).emitWithAck(n % 2 ? 'join' : 'leave', `${room} ${n}`)))
  answers.forEach((answer, n) => assert.deepEqual(answer, { ok: true, room: `${room} ${n}` }))
})

test('an unknown namespace is refused, the main one beside it lives', limit, async t => {
  const socket = await connect(t)
  const nope = socket.io.socket('/nope', { auth: { token: key } })
  nope.connect()
  assert.equal((await refused(nope)).message, 'Invalid namespace')
  assert.equal((await refused(open(t, { token: key }, {}, '/other'))).message, 'Invalid namespace')
  await drained(socket)
})

test('disconnected by the server, a client is told and does not come back by itself', limit, async t => {
  const room = unique('room')
  const socket = await connect(t, { token: key, rooms: [room] })
  const reason = lost(socket)
  const { status, text } = await call('DELETE', '/gateway/sockets/' + encodeURIComponent(socket.id))
  assert.ok(status === 200 || status === 204, text)
  assert.equal(await reason, 'io server disconnect')
  await until(async () => (await emit('event', room, 1)).recipients === 0)
  assert.equal(socket.active, false)

  const before = socket.recoveries.length
  socket.connect()
  await until(() => socket.recoveries.length > before)
  assert.equal(socket.recovered, false, 'it was sent away, not lost')
})

test('the lists show who is connected and where', limit, async t => {
  const room = unique('room')
  const socket = await connect(t, { token: key, rooms: [room] })
  const sockets = (await call('GET', '/gateway/sockets?limit=1000')).json.items
  assert.ok(sockets.some(s => s.id === socket.id), JSON.stringify(sockets))
  const rooms = (await call('GET', '/gateway/rooms?limit=1000')).json.items
  assert.ok(rooms.some(r => r.room === room || r.name === room), JSON.stringify(rooms))
  const one = await call('GET', '/gateway/rooms/' + encodeURIComponent(room))
  assert.equal(one.status, 200, one.text)
  assert.ok(one.text.includes(socket.id), one.text)
})

test('the order of more than 1,000 events holds across the upgrade', { ...limit, skip: transports && 'nothing to upgrade' }, async t => {
  const room = unique('room'), event = unique('event')
  const clients = upTo(8).map(() => {
    const ways = []
    let go
    const socket = open(t, { token: key, rooms: [room] }, { transports: upgradeAfter(new Promise(resolve => { go = resolve })) })
    socket.on(event, () => {
      ways.push(socket.io.engine.transport.name)
      if (ways.length === 100) go()
    })
    return { socket, ways }
  })
  await Promise.all(clients.map(c => connected(c.socket)))
  let sent = 0
  while (sent < 1000 || !clients.every(c => c.ways.at(-1) === 'websocket')) {
    await emitNumbers(event, room, sent, sent + 10)
    sent += 10
  }
  await until(() => clients.every(c => c.ways.length >= sent), () => clients.map(c => c.ways.length))
  for (const { socket, ways } of clients) {
    assert.deepEqual(numbers(socket, event), upTo(sent), 'a hole, a repetition or another order')
    const early = ways.filter(w => w === 'polling').length
    assert.ok(early >= 100 && early < sent)
  }
})
