// Connection state recovery as a stock client sees it: after a lost connection
// it has its id and its rooms again and gets what it missed, each event once.
import { test } from 'node:test'
import assert from 'node:assert/strict'
import { call, connect, connected, drained, emit, emitNumbers, gate, key, lost, numbers, open, received, settled, token, transports, unique, until, upTo } from './support.mjs'

const limit = { timeout: 60_000 }

/** A client in a room, whose CONNECT after a loss can be held back. */
async function member(t, credential = key) {
  const room = unique('room'), event = unique('event')
  const passage = gate({ token: credential })
  const socket = await connect(t, passage)
  assert.deepEqual(await socket.emitWithAck('join', room), { ok: true, room })
  return { socket, room, event, passage, id: socket.id }
}

const ways = { 'closed by the client': socket => socket.io.engine.close() }
if (transports?.[0] !== 'polling') ways['cut without a word'] = socket => socket.io.engine.transport.ws.terminate()

/** Loses the connection, does something meanwhile and waits for the new one. */
async function lose({ socket, passage }, meanwhile, cut = ways['closed by the client']) {
  passage.shut()
  const gone = lost(socket), before = socket.recoveries.length
  cut(socket)
  await gone
  await meanwhile?.()
  passage.open()
  await until(() => socket.recoveries.length > before, () => 'no new connection')
  await settled(socket)
}

function recoveredAs({ socket, id }) {
  assert.equal(socket.recovered, true, 'recovered')
  assert.equal(socket.id, id, 'the same id')
}

for (const [way, cut] of Object.entries(ways)) {
  test(`what was missed comes after the reconnect: ${way}`, limit, async t => {
    const m = await member(t)
    await emitNumbers(m.event, m.room, 0, 5)
    await until(() => received(m.socket, m.event).length === 5)
    await lose(m, async () => {
      await emitNumbers(m.event, m.room, 5, 25)
      await emitNumbers(m.event, undefined, 25, 30)
      await emitNumbers(m.event, unique('another room'), 900, 905)
    }, cut)
    recoveredAs(m)
    assert.equal((await emit(m.event, m.room, { n: 30 })).recipients, 1, 'the room is still joined, once')
    await until(() => numbers(m.socket, m.event).at(-1) === 30, () => numbers(m.socket, m.event))
    assert.deepEqual(numbers(m.socket, m.event), upTo(31))
  })

  test(`with no event ever sent before: ${way}`, limit, async t => {
    const m = await member(t)
    await lose(m, () => emitNumbers(m.event, m.room, 0, 3), cut)
    recoveredAs(m)
    await emitNumbers(m.event, m.room, 3, 5)
    await until(() => numbers(m.socket, m.event).at(-1) === 4, () => numbers(m.socket, m.event))
    assert.deepEqual(numbers(m.socket, m.event), upTo(5))
  })

  test(`with nothing missed at all, again and again: ${way}`, limit, async t => {
    const m = await member(t)
    for (let i = 0; i < 3; i++) {
      await lose(m, undefined, cut)
      recoveredAs(m)
    }
    await emitNumbers(m.event, m.room, 0, 3)
    await until(() => numbers(m.socket, m.event).length >= 3)
    await drained(m.socket)
    assert.deepEqual(numbers(m.socket, m.event), upTo(3))
  })

  test(`several times in a row: ${way}`, limit, async t => {
    const m = await member(t)
    for (let i = 0; i < 5; i++) {
      await lose(m, () => emitNumbers(m.event, m.room, 10 * i, 10 * i + 10), cut)
      recoveredAs(m)
    }
    await emitNumbers(m.event, m.room, 50, 60)
    await until(() => numbers(m.socket, m.event).at(-1) === 59, () => numbers(m.socket, m.event))
    assert.deepEqual(numbers(m.socket, m.event), upTo(60))
  })
}

test('events never stop while the connection is lost ten times', limit, async t => {
  const m = await member(t)
  let sent = 0, stop = false
  const sending = (async () => {
    while (!stop) {
      await emitNumbers(m.event, m.room, sent, sent + 5)
      sent += 5
    }
  })()
  for (let i = 0; i < 10; i++) {
    const seen = received(m.socket, m.event).length
    await until(() => received(m.socket, m.event).length > seen + 10)
    const before = m.socket.recoveries.length
    m.socket.io.engine.close()
    await until(() => m.socket.recoveries.length > before)
    recoveredAs(m)
  }
  stop = true
  await sending
  await until(() => numbers(m.socket, m.event).at(-1) === sent - 1, () => numbers(m.socket, m.event).length)
  assert.deepEqual(numbers(m.socket, m.event), upTo(sent))
})

test('texts as data are not taken for offsets', limit, async t => {
  const m = await member(t)
  const texts = ['a text', '', '0', '1-1', '-1', 'null', '"']
  const got = () => received(m.socket, m.event)
  for (const text of texts) await emit(m.event, m.room, text)
  await until(() => got().length === texts.length)
  await lose(m, async () => { for (const text of texts) await emit(m.event, m.room, text) })
  recoveredAs(m)
  await until(() => got().length >= 2 * texts.length)
  await lose(m)
  recoveredAs(m)
  await drained(m.socket)
  assert.deepEqual(got(), [...texts, ...texts])
})

test('rooms are those of the moment of the loss', limit, async t => {
  const [left, kept] = [unique('left'), unique('kept')]
  const passage = gate({ token: key, rooms: [left] })
  const socket = await connect(t, passage)
  const m = { socket, passage, id: socket.id }
  await socket.emitWithAck('leave', left)
  await socket.emitWithAck('join', kept)
  await lose(m, async () => {
    await emit('to left', left, 1)
    await emit('to kept', kept, 1)
  })
  recoveredAs(m)
  await until(() => received(socket, 'to kept').length)
  assert.equal((await emit('to left', left, 2)).recipients, 0)
  assert.equal((await emit('to kept', kept, 2)).recipients, 1)
  await drained(socket)
  assert.deepEqual(received(socket, 'to left'), [])
  assert.deepEqual(received(socket, 'to kept'), [1, 2])
})

test('a client with a token is recovered too, and its token still binds it', limit, async t => {
  const room = unique('room'), event = unique('event')
  const passage = gate({ token: await token([room]) })
  const socket = await connect(t, passage)
  const m = { socket, passage, id: socket.id }
  assert.equal((await socket.emitWithAck('join', room)).ok, true)
  await lose(m, () => emitNumbers(event, room, 0, 3))
  recoveredAs(m)
  await until(() => numbers(socket, event).length === 3)
  assert.equal((await socket.emitWithAck('join', unique('foreign'))).ok, false)
})

test('more is missed than may wait for a socket', limit, async t => {
  const m = await member(t)
  await emitNumbers(m.event, m.room, 0, 1)
  await until(() => received(m.socket, m.event).length === 1)
  const pad = 'x'.repeat(100_000)
  await lose(m, async () => {
    for (let n = 1; n < 60; n++) await emit(m.event, m.room, { n, pad })
    await emitNumbers(m.event, m.room, 60, 1060)
  })
  recoveredAs(m)
  await until(() => numbers(m.socket, m.event).at(-1) === 1059, () => `${received(m.socket, m.event).length} came, connections: ${m.socket.recoveries}`)
  assert.deepEqual(numbers(m.socket, m.event), upTo(1060))
  assert.equal(m.socket.recoveries.length, 2)
})

test('an unknown or broken pid or offset begins anew', limit, async t => {
  for (const spoil of [
    socket => { socket._pid = 'garbage' },
    socket => { socket._pid = '' },
    socket => { socket._pid = 'x'.repeat(100_000) },
    socket => { socket._lastOffset = 'garbage' },
    socket => { socket._lastOffset = 'z!' },
    socket => { socket._lastOffset = '-1' },
    socket => { socket._lastOffset = '\u0000ж\u2028' },
  ]) {
    const m = await member(t)
    await emitNumbers(m.event, m.room, 0, 3)
    await until(() => received(m.socket, m.event).length === 3)
    await lose(m, () => spoil(m.socket))
    assert.equal(m.socket.recovered, false, spoil.toString())
    assert.notEqual(m.socket.id, m.id)
    assert.equal((await emit(m.event, m.room, { n: 3 })).recipients, 0, 'a new socket is in no room')
    await drained(m.socket)
    assert.deepEqual(numbers(m.socket, m.event), upTo(3))
    m.socket.disconnect()
  }
})

test('a client that went by itself begins anew', limit, async t => {
  const m = await member(t)
  await emitNumbers(m.event, m.room, 0, 3)
  await until(() => received(m.socket, m.event).length === 3)
  m.socket.disconnect()
  await until(async () => (await emit(m.event, m.room, { n: 3 })).recipients === 0)
  const before = m.socket.recoveries.length
  m.socket.connect()
  await until(() => m.socket.recoveries.length > before)
  assert.equal(m.socket.recovered, false)
  assert.notEqual(m.socket.id, m.id)
})

test('back before the server has noticed the loss', limit, async t => {
  const m = await member(t)
  await emitNumbers(m.event, m.room, 0, 3)
  await until(() => received(m.socket, m.event).length === 3)
  const again = open(t, { token: key }, { autoConnect: false })
  again._pid = m.socket._pid
  again._lastOffset = m.socket._lastOffset
  m.socket.io.reconnection(false)
  again.connect()
  await connected(again)
  assert.equal(again.recovered, true)
  assert.equal(again.id, m.id)
  assert.equal((await emit(m.event, m.room, { n: 3 })).recipients, 1, 'there is one socket of this id')
  await until(() => received(again, m.event).length)
  assert.deepEqual(numbers(again, m.event), [3])
  const { items } = (await call('GET', '/gateway/sockets?limit=1000')).json
  assert.equal(items.filter(s => s.id === m.id).length, 1)
})

test('fifty clients lose their connections at once', limit, async t => {
  const room = unique('room'), event = unique('event')
  const passage = gate({ token: key, rooms: [room] })
  const sockets = await Promise.all(upTo(50).map(() => connect(t, passage)))
  const ids = sockets.map(s => s.id)
  assert.equal((await emit(event, room, { n: 0 })).recipients, 50)
  await until(() => sockets.every(s => received(s, event).length === 1))
  passage.shut()
  const gone = sockets.map(lost)
  for (const s of sockets) s.io.engine.close()
  await Promise.all(gone)
  await emitNumbers(event, room, 1, 100)
  passage.open()
  await until(() => sockets.every(s => numbers(s, event).at(-1) === 99))
  sockets.forEach((s, i) => {
    assert.equal(s.recovered, true)
    assert.equal(s.id, ids[i])
    assert.deepEqual(numbers(s, event), upTo(100))
  })
  assert.equal((await emit(event, room, { n: 100 })).recipients, 50)
})
