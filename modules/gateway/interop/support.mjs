// What the cases share. The environment says where the product is: GATEWAY_URL,
// GATEWAY_KEY (an admin key), GATEWAY_TRANSPORTS (a comma list; empty is the
// client's default, polling that upgrades), GATEWAY_PACKAGES (the folder that
// holds node_modules).
import assert from 'node:assert/strict'
import { createRequire } from 'node:module'

const require = createRequire(process.env.GATEWAY_PACKAGES + '/')
export const { io } = require('socket.io-client')
const { NodeWebSocket, NodeXHR } = require('engine.io-client')

export const url = process.env.GATEWAY_URL
export const key = process.env.GATEWAY_KEY
export const transports = process.env.GATEWAY_TRANSPORTS?.split(',')

let count = 0
/** A name that no other case uses. */
export const unique = what => `${what} ${process.pid}-${++count}`

/** A stock client with a connection of its own, closed at the end of the case. */
export function open(t, auth = { token: key }, options = {}, namespace = '') {
  const socket = io(url + namespace, {
    forceNew: true, auth, reconnectionDelay: 20, reconnectionDelayMax: 200,
    ...(transports && { transports }), ...options,
  })
  socket.got = []
  socket.onAny((event, ...args) => socket.got.push([event, ...args]))
  socket.recoveries = []
  socket.on('connect', () => socket.recoveries.push(socket.recovered))
  t.after(() => socket.disconnect())
  return socket
}

/** open, connected, and upgraded where that is to come. */
export async function connect(t, ...how) {
  const socket = open(t, ...how)
  await connected(socket)
  await settled(socket)
  return socket
}

export function connected(socket) {
  if (socket.connected) return
  return new Promise((resolve, reject) => {
    socket.once('connect', resolve)
    socket.once('connect_error', reject)
  })
}

/** The upgrade is over, if there is to be one. */
export async function settled(socket) {
  const engine = socket.io.engine
  if (!transports && engine.transport.name !== 'websocket') await new Promise(resolve => engine.once('upgrade', resolve))
}

/** Transports whose upgrade begins when go is resolved. */
export const upgradeAfter = go => [NodeXHR, class extends NodeWebSocket {
  doOpen() { go.then(() => super.doOpen()) }
}]

/** The connect_error that a client gets. */
export const refused = socket => new Promise((resolve, reject) => {
  socket.once('connect_error', resolve)
  socket.once('connect', () => reject(new Error('the client was let in')))
})

export async function until(condition, what = () => '') {
  for (const end = Date.now() + 30_000; !(await condition());) {
    if (Date.now() > end) assert.fail(`waited for ${condition}: ${what()}`)
    await new Promise(resolve => setTimeout(resolve, 5))
  }
}

/** A request with the admin key. A string goes as it is. */
export async function call(method, path, body, headers = {}) {
  const response = await fetch(url + path, {
    method, headers: { Authorization: 'Bearer ' + key, ...(body !== undefined && { 'Content-Type': 'application/json' }), ...headers },
    body: body === undefined || typeof body === 'string' ? body : JSON.stringify(body),
  })
  const text = await response.text()
  let json
  try { json = JSON.parse(text) } catch { /* no JSON: the case says what it wants */ }
  return { status: response.status, text, json }
}

/** Sends an event, wants it accepted and gives the answer. */
export async function emit(event, room, data) {
  const { status, json, text } = await call('POST', '/events', { event, ...(room !== undefined && { room }), data })
  assert.equal(status, 201, text)
  return json
}

/** Sends numbered events in requests of up to 100. */
export async function emitNumbers(event, room, from, to) {
  for (let at = from; at < to; at += 100) {
    const events = []
    for (let n = at; n < Math.min(at + 100, to); n++) events.push({ event, room, data: { n } })
    const { status, text } = await call('POST', '/events', { events })
    assert.equal(status, 201, text)
  }
}

export async function token(rooms) {
  const { status, json, text } = await call('POST', '/gateway/tokens', { rooms, ttl: '1h', user: 'anna' })
  assert.equal(status, 201, text)
  assert.equal(typeof json.token, 'string', text)
  return json.token
}

/** The data of what the client got of an event, in order. */
export const received = (socket, event) => socket.got.filter(([name]) => name === event).map(([, data]) => data)
export const numbers = (socket, event) => received(socket, event).map(data => data.n)
export const upTo = n => Array.from({ length: n }, (_, i) => i)

/**
 * All that was accepted so far has reached these clients: a last event, sent to
 * each by a room of its own, has.
 */
export async function drained(...sockets) {
  const room = unique('drained'), event = unique('drained')
  for (const socket of sockets) assert.deepEqual(await socket.emitWithAck('join', room), { ok: true, room })
  await emit(event, room, null)
  await until(() => sockets.every(s => received(s, event).length), () => event)
  for (const socket of sockets) assert.equal((await socket.emitWithAck('leave', room)).ok, true)
}

/** An auth option that lets a client reconnect but waits with its CONNECT while it is shut. */
export function gate(auth) {
  let passable = Promise.resolve(), release
  const ask = answer => { passable.then(() => answer(auth)) }
  ask.shut = () => { passable = new Promise(resolve => { release = resolve }) }
  ask.open = () => release()
  return ask
}

export const lost = socket => new Promise(resolve => socket.once('disconnect', resolve))
