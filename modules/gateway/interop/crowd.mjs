// Stock clients that follow numbered events, {from, n}, while the Go test that
// started this program ends servers under them. For each line on its input it
// writes a line that says what each client has seen.
import { createInterface } from 'node:readline'
import { io, key, transports, url } from './support.mjs'

const room = process.env.GATEWAY_ROOM
const clients = Array.from({ length: +process.env.GATEWAY_CROWD }, (_, i) => {
  const handshake = i % 2 === 0
  const socket = io(url, {
    forceNew: true, auth: { token: key, ...(handshake && { rooms: [room] }) },
    reconnectionDelay: 20, reconnectionDelayMax: 500, ...(transports && { transports }),
  })
  const seen = { ids: [], recovered: 0, anew: 0, joined: handshake, last: {}, faults: [] }
  socket.on('connect', () => {
    if (seen.ids.at(-1) !== socket.id) seen.ids.push(socket.id)
    if (socket.recovered) seen.recovered++
    else seen.anew++
    if (!seen.joined) socket.emit('join', room, answer => { seen.joined = answer.ok })
  })
  socket.on('connect_error', error => { seen.error = error.message })
  socket.on('disconnect', reason => { seen.lost = reason })
  socket.on('numbered', ({ from, n }) => {
    const want = (seen.last[from] ?? -1) + 1
    if (n !== want && seen.faults.length < 10) seen.faults.push(`${from}: ${n} came for ${want}`)
    seen.last[from] = n
  })
  return { socket, seen }
})

for await (const _ of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(clients.map(({ socket, seen }) => ({ ...seen, connected: socket.connected }))))
}
process.exit()
