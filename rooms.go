package main

import (
	"context"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"chat/internal/ratelog"
)

const (
	lobby        = ""               // the room without a name
	maxRooms     = 1000             // the lobby among them
	maxRoomName  = 32               // code points
	emptyRoomTTL = 10 * time.Minute // for people to come back before a room is let go with all that was said
)

// rooms is a hub for each name. A hub is made when its first client comes and let go
// emptyWait after its last one left, at once if nothing was said. The lobby's stays, but
// forgets.
//
// Clients are counted in and out under one lock, in before they register and out when
// nothing of them is left. So there is never a second hub of a name, and nobody
// registers with one that is let go.
type rooms struct {
	ctx      context.Context // of all hubs
	running  sync.WaitGroup  // a hub each
	journal  *ratelog.Logger
	counters *counters

	mu    sync.Mutex
	named map[string]*room
}

// A room is a hub and how many use it.
type room struct {
	hub     *Hub
	stop    context.CancelFunc
	users   int
	emptied time.Time   // when the last of them left
	timer   *time.Timer // calls expire emptyWait after that, whoever has come since; nil before
}

// newRooms returns the lobby, whose hub runs until ctx is done, as will those of all other rooms.
func newRooms(ctx context.Context, j *ratelog.Logger, c *counters) *rooms {
	rs := &rooms{ctx: ctx, journal: j, counters: c, named: make(map[string]*room)}
	rs.open(lobby)
	return rs
}

// open makes a room and starts its hub. The lock must be held.
func (rs *rooms) open(name string) *room {
	ctx, stop := context.WithCancel(rs.ctx)
	r := &room{hub: newHub(rs.journal, rs.counters), stop: stop}
	rs.named[name] = r
	rs.running.Go(func() { r.hub.run(ctx) })
	return r
}

// close lets a room go. The lock must be held, and nobody may be counted in.
func (rs *rooms) close(name string) {
	r := rs.named[name]
	r.stop()
	if r.timer != nil {
		r.timer.Stop() // or they would pile up, when somebody walks through many rooms
	}
	delete(rs.named, name)
}

// count returns how many rooms there are.
func (rs *rooms) count() int {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	return len(rs.named)
}

// admits reports whether enter would find or make a place in a room.
func (rs *rooms) admits(name string) bool {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.named[name] != nil || len(rs.named) < maxRooms {
		return true
	}
	_, ok := rs.oldestEmptyRoom()
	return ok
}

// enter counts a client into a room and returns its hub, nil if there are too many
// rooms with people in them. The client must leave when nothing of it is left.
func (rs *rooms) enter(name string) *Hub {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	r := rs.named[name]
	if r == nil {
		if len(rs.named) >= maxRooms {
			empty, ok := rs.oldestEmptyRoom()
			if !ok {
				return nil
			}
			rs.close(empty)
		}
		r = rs.open(name)
	}
	r.users++
	return r.hub
}

// leave counts a client out of a room.
func (rs *rooms) leave(name string) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	r := rs.named[name]
	if r.users--; r.users > 0 {
		return
	}
	switch {
	case name != lobby && !r.hub.hasHistory.Load():
		rs.close(name)
	case r.timer == nil:
		r.emptied = time.Now()
		r.timer = time.AfterFunc(emptyRoomTTL, func() { rs.expire(name) })
	default:
		r.emptied = time.Now()
		r.timer.Reset(emptyRoomTTL)
	}
}

// expire lets a room go, or has the lobby forget, if it has been empty for emptyWait.
func (rs *rooms) expire(name string) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	r := rs.named[name] // perhaps another than the timer was for: one may have made place meanwhile
	switch {
	case r == nil || r.users > 0 || time.Since(r.emptied) < emptyRoomTTL:
	case name == lobby:
		offer(r.hub, r.hub.clearHistory, struct{}{})
	default:
		rs.close(name)
	}
}

// oldestEmptyRoom returns the room that has been empty longest, if any is. The lock must
// be held.
func (rs *rooms) oldestEmptyRoom() (name string, ok bool) {
	for n, r := range rs.named {
		if n != lobby && r.users == 0 && (!ok || r.emptied.Before(rs.named[name].emptied)) {
			name, ok = n, true
		}
	}
	return name, ok
}

// roomName returns the name of the room that somebody asks for, and whether there can
// be one of that name.
func roomName(asked string) (name string, ok bool) {
	name = strings.Clone(strings.ToLower(asked)) // not a piece of the request, which it outlives
	strange := func(r rune) bool {
		// Marks are what some scripts write their vowels with.
		return !unicode.In(r, unicode.L, unicode.M, unicode.Nd) && r != '-' && r != '_'
	}
	return name, utf8.ValidString(name) && utf8.RuneCountInString(name) <= maxRoomName && !strings.ContainsFunc(name, strange)
}
