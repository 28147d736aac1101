package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"chat/internal/backlog"
	"chat/internal/filelog"
	"chat/internal/history"
	"chat/internal/metrics"
	"chat/internal/natslog"
	"chat/internal/ratelog"
)

const (
	// lobby is the name of the room that is always there.
	lobby = ""

	// maxRooms is how many rooms there may be, the lobby among them.
	maxRooms = 1000

	// emptyRoomTTL is how long a room is kept after its last client left, with what was
	// said in it.
	emptyRoomTTL = 10 * time.Minute
)

// rooms has a hub for each room name. A hub is made when its first client comes. It is
// stopped emptyRoomTTL after its last client left, or at once if nothing was said. The
// lobby's hub stays, but forgets what was said in the same way. What is in a room's file
// or in the stream remains: the next hub of the room continues it.
//
// Clients are counted in and out under one lock: in before they register, out when
// nothing of them is left. So there is never a second hub of a name, and no client
// registers with a hub that is being stopped.
type rooms struct {
	ctx      context.Context // ends all hubs
	running  sync.WaitGroup  // of the hubs' run
	logger   *ratelog.Logger
	counters *metrics.Counters
	backlog  *backlog.Backlog
	dir      *filelog.Dir    // where history is kept on disk; nil without -history
	stream   *natslog.Stream // the log that servers share; nil without -nats

	mu     sync.Mutex
	named  map[string]*room
	lastID int64 // the largest id that a stopped hub gave
}

// A room is a hub and how many clients use it.
type room struct {
	hub     *Hub
	stop    context.CancelFunc
	clients int
	emptied time.Time   // when the last of them left
	timer   *time.Timer // calls expire emptyRoomTTL after that, even if the room is in use again; nil before
}

// newRooms returns the lobby. Its hub runs until ctx is done, as will those of all rooms.
// What is said is kept in dir or stream, unless both are nil.
func newRooms(ctx context.Context, logger *ratelog.Logger, counters *metrics.Counters, dir *filelog.Dir, stream *natslog.Stream) *rooms {
	rs := &rooms{ctx: ctx, logger: logger, counters: counters, backlog: backlog.New(), dir: dir, stream: stream, named: make(map[string]*room)}
	rs.open(lobby)
	return rs
}

// open makes a room and starts its hub. Without a stream its ids are larger than those of an
// earlier hub of the name, even if the clock was set back. The lock must be held.
func (rs *rooms) open(name string) *room {
	ctx, stop := context.WithCancel(rs.ctx)
	var log roomLog
	if rs.stream != nil {
		log = newSharedLog(rs.stream, name)
	} else {
		log = &localLog{history: history.New(time.Now(), rs.lastID), file: rs.dir.Log(name, ctx.Done())}
	}
	r := &room{hub: newHub(rs.logger, rs.counters, rs.backlog, log), stop: stop}
	rs.named[name] = r
	rs.running.Go(func() { r.hub.run(ctx) })
	return r
}

// close stops a room's hub and forgets the room. The lock must be held, and no client may
// be counted in.
func (rs *rooms) close(name string) {
	r := rs.named[name]
	r.stop()
	if r.timer != nil {
		r.timer.Stop() // or the timers of a walk through many rooms would pile up
	}
	rs.lastID = max(rs.lastID, r.hub.lastID.Load())
	delete(rs.named, name)
}

// count returns how many rooms there are.
func (rs *rooms) count() int {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	return len(rs.named)
}

// has reports whether there is a room of a name.
func (rs *rooms) has(name string) bool {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	return rs.named[name] != nil
}

// admits reports whether enter would succeed now.
func (rs *rooms) admits(name string) bool {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.named[name] != nil || len(rs.named) < maxRooms {
		return true
	}
	_, ok := rs.nextToClose()
	return ok
}

// readTimeout is how long a room that is not open may take to be read from the stream.
const readTimeout = 5 * time.Second

// errAway says that the stream is out of reach.
var errAway = errors.New("the stream is out of reach")

// history returns the messages that a room keeps, oldest first. A room that is not open is
// read from its file or the stream, and stays as it is. An error says that what was said
// cannot be read now.
func (rs *rooms) history(ctx context.Context, name string) ([]*history.Entry, error) {
	if rs.stream != nil && !rs.stream.Await(ctx, 0) {
		return nil, errAway
	}
	rs.mu.Lock()
	r := rs.named[name]
	rs.mu.Unlock()
	if r != nil {
		reply := make(chan []*history.Entry, 1)
		if offer(r.hub, r.hub.readHistory, reply) {
			if kept := <-reply; kept != nil {
				return kept, nil
			}
		}
	}
	if rs.stream == nil {
		return rs.dir.Read(name)
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	snapshot, err := rs.stream.Kept(ctx, name)
	if err != nil {
		return nil, err
	}
	return keptOf(historyOf(snapshot)), nil
}

// enter counts a client into a room and returns its hub, or nil if there are too many
// rooms with clients in them. The caller calls leave when nothing of the client is left.
func (rs *rooms) enter(name string) *Hub {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	r := rs.named[name]
	if r == nil {
		if len(rs.named) >= maxRooms {
			empty, ok := rs.nextToClose()
			if !ok {
				return nil
			}
			rs.close(empty)
		}
		r = rs.open(name)
	}
	r.clients++
	return r.hub
}

// leave counts a client out of a room.
func (rs *rooms) leave(name string) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	r := rs.named[name]
	if r.clients--; r.clients > 0 {
		return
	}
	r.emptied = time.Now()
	switch {
	case name != lobby && r.hub.lastID.Load() == 0: // nothing was said, and the room was read
		rs.close(name)
	case r.timer == nil:
		r.timer = time.AfterFunc(emptyRoomTTL, func() { rs.expire(name) })
	default:
		r.timer.Reset(emptyRoomTTL)
	}
}

// expire closes a room, or has the lobby forget what was said, if it has been empty for
// emptyRoomTTL.
func (rs *rooms) expire(name string) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	r := rs.named[name] // perhaps not the room that the timer was set for, if that was closed meanwhile
	switch {
	case r == nil || r.clients > 0 || time.Since(r.emptied) < emptyRoomTTL:
	case name == lobby:
		offer(r.hub, r.hub.clearHistory, struct{}{})
	default:
		rs.close(name)
	}
}

// nextToClose returns the room that makes place for another, if there is an empty one: the
// one that has been empty longest, of those in which at most one user said something if
// there are such. So a user who walks through many rooms closes none but its own. The lock
// must be held.
func (rs *rooms) nextToClose() (name string, ok bool) {
	for n, r := range rs.named {
		if n == lobby || r.clients > 0 {
			continue
		}
		if !ok || r.goesBefore(rs.named[name]) {
			name, ok = n, true
		}
	}
	return name, ok
}

// goesBefore reports whether an empty room makes place before another one.
func (r *room) goesBefore(other *room) bool {
	if several, otherSeveral := r.hub.severalSpoke.Load(), other.hub.severalSpoke.Load(); several != otherSeveral {
		return otherSeveral
	}
	return r.emptied.Before(other.emptied)
}
