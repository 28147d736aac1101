// Package wstest is what tests, the benchmark and the soak need to speak WebSocket
// without a WebSocket library: raw frames, right and wrong, requests that are refused,
// and a network in memory. The server does not use it.
package wstest

import (
	"encoding/binary"
	"fmt"
	"io"

	"chat/internal/protocol"
)

// The parts of a frame's first byte (RFC 6455, section 5.2): Fin, and the opcodes.
const (
	Fin = 0x80

	Continuation = 0x0
	Text         = 0x1
	Binary       = 0x2
	Close        = 0x8
	Ping         = 0x9
	Pong         = 0xA
)

// Masked returns a frame as a client sends it. The mask is zero, which is as good as
// any but leaves the payload readable.
func Masked(first byte, payload string) string {
	return Lying(first, uint64(len(payload)), payload)
}

// Lying is Masked with a header that tells another length than the payload's.
func Lying(first byte, length uint64, payload string) string {
	b := []byte{first}
	switch {
	case length < 126:
		b = append(b, 0x80|byte(length))
	case length < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(length))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), length)
	}
	return string(b) + "\x00\x00\x00\x00" + payload
}

// Closing returns the payload of a close frame (RFC 6455, section 5.5.1).
func Closing(code uint16, reason string) string {
	return string(binary.BigEndian.AppendUint16(nil, code)) + reason
}

// ReadFrame reads a frame as the server sends it. It fails if the frame is masked or its
// payload is longer than protocol.MaxFrame.
func ReadFrame(r io.Reader) (first byte, payload string, err error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, "", err
	}
	length := int(head[1])
	if length == 126 {
		var extended [2]byte
		if _, err := io.ReadFull(r, extended[:]); err != nil {
			return 0, "", err
		}
		length = int(binary.BigEndian.Uint16(extended[:]))
	} else if length > 126 {
		return 0, "", fmt.Errorf("the second byte of a frame is %#x: it is masked or too long", head[1])
	}
	if length > protocol.MaxFrame {
		return 0, "", fmt.Errorf("a frame of %d bytes", length)
	}
	buf := make([]byte, length)
	_, err = io.ReadFull(r, buf)
	return head[0], string(buf), err
}

// Handshake returns the request that upgrades a connection (RFC 6455, section 4.1) to a
// path with a query, asking for a subprotocol unless that is "".
func Handshake(host, path, subprotocol string) string {
	request := "GET " + path + " HTTP/1.1\r\nHost: " + host + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + HandshakeKey + "\r\n"
	if subprotocol != "" {
		request += "Sec-WebSocket-Protocol: " + subprotocol + "\r\n"
	}
	return request + "\r\n"
}

// The key of Handshake and the answer to it are the example in RFC 6455, section 1.3.
const (
	HandshakeKey    = "dGhlIHNhbXBsZSBub25jZQ=="
	HandshakeAnswer = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
)
