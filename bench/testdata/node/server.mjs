// A stock Socket.IO server with the product's POST /events and rooms at the
// handshake, to measure beside. BENCH_PACKAGES holds node_modules; BENCH_LOG=on
// writes a line per delivery. The first line on stdout is the address.
import { createRequire } from 'node:module'
import { createServer } from 'node:http'

const { Server } = createRequire(process.env.BENCH_PACKAGES + '/')('socket.io')
const log = process.env.BENCH_LOG === 'on'

const server = createServer((request, response) => {
  const parts = []
  request.on('data', part => parts.push(part))
  request.on('end', () => {
    const { event, room, data } = JSON.parse(Buffer.concat(parts))
    const members = io.sockets.adapter.rooms.get(room) ?? new Set()
    io.to(room).emit(event, data)
    if (log) for (const id of members) console.log(`[${event}] event sent to: ${id}`)
    response.writeHead(201, { 'Content-Type': 'application/json' })
    response.end(JSON.stringify({ event, room, recipients: members.size }))
  })
})
const io = new Server(server)
io.use((socket, next) => {
  socket.join(socket.handshake.auth.rooms)
  next()
})
server.listen(0, '127.0.0.1', () => console.log('http://127.0.0.1:' + server.address().port))
