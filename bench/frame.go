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

// A parser takes apart what a server sends, in pieces of any size. Append what is received
// to data, then call scan until it reports false, then look at err.
type parser struct {
	// The piece that scan found.
	op   byte   // wstest.Text, also where a fragmented message continues, or a control frame's
	body []byte // of a text message as much as is there, of a control frame all; a part of data
	end  bool   // the message ends here

	data  []byte // not yet scanned; after the last scan, the beginning of a header or control frame
	err   error  // a fault: after it nothing is scanned
	left  uint64 // bytes to come of the frame under way
	final bool   // that frame ends its message
	text  bool   // a text message has begun and not ended
}

// scan finds the next piece. It reports false if there is none yet.
func (p *parser) scan() bool {
	if p.left == 0 && !p.header() {
		return false
	}
	size := min(p.left, uint64(len(p.data)))
	if size == 0 && p.left > 0 {
		return false
	}
	p.body, p.data = p.data[:size], p.data[size:]
	p.left -= size
	p.end = p.final && p.left == 0
	return true
}

// header reads the header of a frame (RFC 6455, section 5.2). It reports false if that is
// wrong, or not whole yet, as a control frame must be.
func (p *parser) header() bool {
	if p.err != nil || len(p.data) < 2 {
		return false
	}
	first, size, length := p.data[0], 2, uint64(p.data[1])
	switch {
	case length == 126 && len(p.data) >= 4:
		size, length = 4, uint64(binary.BigEndian.Uint16(p.data[2:]))
	case length == 127 && len(p.data) >= 10:
		size, length = 10, binary.BigEndian.Uint64(p.data[2:])
	case length == 126 || length == 127:
		return false
	}

	final, op, text := first&wstest.Fin != 0, first&0x0F, p.text
	valid := first&0x70 == 0 && p.data[1]&0x80 == 0 // no extension, no mask
	switch op {
	case wstest.Text, wstest.Continuation:
		valid = valid && text == (op == wstest.Continuation)
		op, text = wstest.Text, !final
	case wstest.Close, wstest.Ping, wstest.Pong:
		valid = valid && final && length <= 125
	default:
		valid = false
	}
	if !valid {
		p.err = fault(fmt.Sprintf("sent a frame with the header % x", p.data[:size]))
		return false
	}
	if op != wstest.Text && uint64(len(p.data)-size) < length {
		return false
	}
	p.data = p.data[size:]
	p.left, p.final, p.op, p.text = length, final, op, text
	return true
}
