package main

import (
	"bytes"
	"sync/atomic"

	"github.com/gorilla/websocket"
)

// A batch is what the hub hands out. Nobody changes it after that. It is one of
//
//	lines for all          a text and its frame, on each wire that somebody speaks
//	a ping                 a frame without a text
//	something for one      no frame: a hello and what was said before, or a message once more
type batch struct {
	payloads [numProtocols]payload
	replay   []*entry // behind the text

	pending     atomic.Int32    // clients that have yet to take it
	stragglers  int32           // of these, so few that they need not be waited for
	mostWritten chan<- struct{} // told when they are no more; nil if nobody wants to know
}

// count has the batch tell taken when most of so many clients have taken it.
func (b *batch) count(clients int, taken chan<- struct{}) {
	b.pending.Store(int32(clients))
	b.stragglers = int32(min(clients-1, 1+clients/16)) // one who does not read does not hold up the others
	b.mostWritten = taken
}

// markWritten notes that one more client has taken the batch: it is written, or about to be.
func (b *batch) markWritten() {
	if b.mostWritten == nil || b.pending.Add(-1) != b.stragglers {
		return
	}
	select {
	case b.mostWritten <- struct{}{}:
	default: // it was told before
	}
}

// A payload is what a batch says on one wire, framed once for all who speak it.
type payload struct {
	text  []byte // lines joined by newlines, at most maxFrame bytes
	frame *websocket.PreparedMessage
}

// newPayload frames a copy of the text.
func newPayload(text []byte) payload {
	return payload{bytes.Clone(text), prepare(websocket.TextMessage, text)}
}

// ping is what the hub hands out when nobody may have spoken for a while.
var ping = &batch{payloads: [numProtocols]payload{
	{frame: prepare(websocket.PingMessage, nil)},
	{frame: prepare(websocket.PingMessage, nil)},
}}

// prepare frames a payload once for all connections. It cannot fail: it writes to
// memory, a message type that exists.
func prepare(messageType int, payload []byte) *websocket.PreparedMessage {
	frame, err := websocket.NewPreparedMessage(messageType, payload)
	if err != nil {
		panic(err)
	}
	return frame
}
