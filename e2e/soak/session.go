package main

import (
	"slices"
	"strings"
	"sync"

	"chat/internal/protocol"
	"chat/internal/wstest"
)

// A session is somebody in one room, over all connections, as a page is: it knows what it has
// heard, and keeps what it has said until that comes back.
type session struct {
	room  *room
	owner string

	mu     sync.Mutex
	last   int64 // id of the last message heard; 0 for none
	spans  []span
	hello  wstest.Event // of this connection
	fresh  bool         // since which a new span begins
	after  int64        // for that span
	said   int
	outbox []outgoing
}

// An outgoing is a line on its way.
type outgoing struct{ text, ref string }

// position returns the id to come back with, 0 for none, and what is to be said again.
func (e *session) position() (int64, []outgoing) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.last, slices.Clone(e.outbox)
}

// waiting returns how many lines have not come back.
func (e *session) waiting() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.outbox)
}

// giveUp forgets what has not come back: on the classic wire there is no telling whether it was
// said, and so it is not said again.
func (e *session) giveUp() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.outbox = nil
}

// greet takes a hello.
func (e *session) join(h wstest.Event, p *process, v *report) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if h.Room == nil || *h.Room != e.room.name || h.Max != protocol.MaxText {
		v.fault("%s was greeted with %+v in %q", e.owner, h, e.room.name)
	}
	switch {
	case e.last == 0 && h.Missed:
		v.fault("%s is new in %q and was told to have missed some", e.owner, e.room.name)
	case e.last > 0 && e.last < p.begin && !h.Missed:
		v.fault("%s came back to %q after a restart and was not told that some may be missing", e.owner, e.room.name)
	case !h.Missed && h.ID < e.last:
		v.fault("%s in %q has heard %d, but the last is %d", e.owner, e.room.name, e.last, h.ID)
	}
	e.hello = h
	if h.Missed || e.last == 0 {
		e.fresh, e.after = true, 0
		if h.Missed && e.last > p.begin {
			e.after = e.last
		}
	}
}

// hear takes a message.
func (e *session) receive(m wstest.Event, v *report) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.room.receive(m) {
		v.fault("%s in %q has heard %d otherwise than others: %.200s", e.owner, e.room.name, m.ID, m.Line)
	}
	if strings.HasPrefix(m.Text, afterBreach) {
		v.fault("%s in %q has heard %q, said after a breach", e.owner, e.room.name, m.Text)
	}
	mine := strings.HasPrefix(m.Ref, e.owner+"-")
	if mine {
		if i := slices.IndexFunc(e.outbox, func(u outgoing) bool { return u.ref == m.Ref }); i >= 0 {
			if e.outbox[i].text != m.Text {
				v.fault("%s said %.60q in %q, but heard %.60q", e.owner, e.outbox[i].text, e.room.name, m.Text)
			}
			e.outbox = slices.Delete(e.outbox, i, i+1)
		}
	}
	if m.ID <= e.last {
		if mine {
			v.count("repeats")
		} else {
			v.double("%s in %q has heard %d %.40q after %d", e.owner, e.room.name, m.ID, m.Text, e.last)
		}
		return
	}
	if e.fresh {
		e.begin(m.ID)
	}
	s := &e.spans[len(e.spans)-1]
	s.ids = append(s.ids, m.ID)
	e.last = m.ID
}

// begin begins a new span, at the first message of those that are kept.
func (e *session) begin(first int64) {
	e.fresh = false
	e.spans = append(e.spans, span{after: e.after, begin: min(e.hello.ID, first-1)})
}

// stopped notes that the server has said that it stops, after everything else.
func (e *session) stopped(p *process) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.fresh {
		e.begin(e.hello.ID + 1)
	}
	e.spans[len(e.spans)-1].end = p.last()
}

// caughtUp reports whether the session has heard what there was when it was greeted. An id that
// nobody knows is a new room's.
func (e *session) caughtUp() bool {
	e.mu.Lock()
	last, id := e.last, e.hello.ID
	e.mu.Unlock()
	return last >= id || !e.room.knows(id)
}
