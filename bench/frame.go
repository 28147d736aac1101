package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// This file is the handshake and the frames both ways. It is spelled by hand, and only
// as far as the two servers need it, so that the crowd costs little beside them.

// The key and the answer to it are the example in RFC 6455, section 1.3.
const (
	upgradeKey    = "dGhlIHNhbXBsZSBub25jZQ=="
	upgradeAnswer = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
)

// upgradeRequest asks for /ws, with a subprotocol unless it is "".
func upgradeRequest(host, protocol string) []byte {
	request := "GET /ws HTTP/1.1\r\nHost: " + host + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + upgradeKey + "\r\n"
	if protocol != "" {
		request += "Sec-WebSocket-Protocol: " + protocol + "\r\n"
	}
	return []byte(request + "\r\n")
}

// errProtocol says that the server does not speak the subprotocol asked for.
var errProtocol = errors.New("subprotocol not spoken")

// checkUpgrade looks at the head of the server's answer. It returns errProtocol if
// that lets us in, but not with the protocol asked for.
func checkUpgrade(head []byte, protocol string) error {
	if !bytes.HasPrefix(head, []byte("HTTP/1.1 101 ")) || !bytes.Contains(head, []byte(upgradeAnswer)) {
		return fault(fmt.Sprintf("not let in: %q", head))
	}
	if protocol != "" && !strings.Contains(strings.ToLower(string(head)), "\r\nsec-websocket-protocol: "+protocol+"\r\n") {
		return errProtocol
	}
	return nil
}

const (
	opContinuation = 0x0
	opText         = 0x1
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xA
)

// appendFrame appends a whole frame as a client sends it. Its mask is zero, which
// is a mask like any other.
func appendFrame(b []byte, op byte, payload []byte) []byte {
	b = append(b, 0x80|op)
	if len(payload) < 126 {
		b = append(b, 0x80|byte(len(payload)))
	} else {
		b = append(b, 0x80|126)
		b = binary.BigEndian.AppendUint16(b, uint16(len(payload)))
	}
	return append(append(b, 0, 0, 0, 0), payload...)
}

// parser takes apart what a server sends, in pieces of any size: feed it, then scan
// until that reports false, then look at err.
type parser struct {
	// The piece that scan found: of a text message as much as is there, of a control
	// frame all.
	op   byte // never opContinuation
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
		if op < opClose {
			p.op, p.end = opText, final && p.left == 0
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
	case opText:
		right = right && !p.text
		p.text = !final
	case opContinuation:
		right = right && p.text
		p.text = !final
	case opClose, opPing, opPong:
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
