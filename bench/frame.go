package main

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"chat/internal/wstest"
)

// checkHandshake returns a fault unless the head of the server's answer, up to its last
// line break, upgrades the connection to the subprotocol asked for, if any.
func checkHandshake(head []byte, subprotocol string) error {
	if !bytes.HasPrefix(head, []byte("HTTP/1.1 101 ")) || !bytes.Contains(head, []byte(wstest.HandshakeAnswer)) {
		return fault(fmt.Sprintf("refused the handshake: %q", head))
	}
	if subprotocol != "" && !bytes.Contains(bytes.ToLower(head), []byte("\r\nsec-websocket-protocol: "+subprotocol+"\r\n")) {
		return fault("does not speak " + subprotocol)
	}
	return nil
}

// parser takes apart what a server sends, in pieces of any size: feed it, then scan
// until that reports false, then look at err.
type parser struct {
	// The piece that scan found: of a text message as much as is there, of a control
	// frame all.
	op   byte // never Continuation
	body []byte
	end  bool // the message ends here
	err  error

	data    []byte // fed and not yet scanned
	head    [10]byte
	have    int    // bytes of head
	left    uint64 // bytes of payload to come, once the head is whole
	payload bool   // the head is whole
	text    bool   // a text message has begun and not ended
	control []byte // a control frame's payload so far
}

// feed hands data to the parser, which uses it until scan reports false.
func (p *parser) feed(data []byte) { p.data = data }

// scan finds the next piece. It reports false if there is none yet.
func (p *parser) scan() bool {
	for p.err == nil {
		if !p.payload && !p.header() {
			return false
		}
		size := min(p.left, uint64(len(p.data)))
		if size == 0 && p.left > 0 {
			return false
		}
		p.body, p.data = p.data[:size], p.data[size:]
		p.left -= size
		p.payload = p.left > 0

		final, op := p.head[0]&0x80 != 0, p.head[0]&0x0F
		if op < wstest.Close {
			p.op, p.end = wstest.Text, final && p.left == 0
			return true
		}
		p.control = append(p.control, p.body...)
		if p.left == 0 {
			p.op, p.body, p.end = op, p.control, true
			p.control = p.control[:0]
			return true
		}
	}
	return false
}

// header reads the head of a frame. It reports false if that is not whole yet, or wrong.
func (p *parser) header() bool {
	need := func() int {
		switch {
		case p.have < 2:
			return 2
		case p.head[1] == 126:
			return 4
		case p.head[1] == 127:
			return 10
		}
		return 2
	}
	for p.have < need() {
		size := copy(p.head[p.have:need()], p.data)
		if size == 0 {
			return false
		}
		p.have += size
		p.data = p.data[size:]
	}
	switch need() {
	case 2:
		p.left = uint64(p.head[1])
	case 4:
		p.left = uint64(binary.BigEndian.Uint16(p.head[2:]))
	case 10:
		p.left = binary.BigEndian.Uint64(p.head[2:])
	}
	final, op := p.head[0]&0x80 != 0, p.head[0]&0x0F
	right := p.head[0]&0x70 == 0 && p.head[1]&0x80 == 0
	switch op {
	case wstest.Text:
		right = right && !p.text
		p.text = !final
	case wstest.Continuation:
		right = right && p.text
		p.text = !final
	case wstest.Close, wstest.Ping, wstest.Pong:
		right = right && final && p.left <= 125
	default:
		right = false
	}
	if !right {
		p.err = fault(fmt.Sprintf("a frame that begins with % x", p.head[:p.have]))
		return false
	}
	p.have = 0
	p.payload = true
	return true
}
