package inbound

import (
	"bufio"
	"net"
	"net/http"

	"chat/internal/cork"
)

// sendBuffer is the size in bytes of a socket's send buffer. The system's own grows to
// megabytes. A peer that reads slowly but steadily would then look dead: a ping waits
// behind all that is in the buffer, and a writer is woken only when a third of it is free.
const sendBuffer = 128 << 10

// A Hijacker is the answer to a request whose connection a WebSocket library takes over.
// The library then reads through Conn, and writes through its corked connection.
type Hijacker struct {
	http.ResponseWriter
	Conn *Conn // set by Hijack
}

// Hijack takes the connection over from the HTTP server.
func (h *Hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	if conn, ok := conn.(interface{ SetWriteBuffer(bytes int) error }); ok {
		conn.SetWriteBuffer(sendBuffer) // if it fails, the system's own size will do
	}
	h.Conn = &Conn{Conn: cork.New(conn)}
	return h.Conn, buffered, nil
}
