package natslog

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"chat/internal/presence"
	"chat/internal/protocol"
)

const (
	// hereSubject is where each server says who is in which room on it.
	hereSubject = "chat-here"

	// hereInterval is how often it says so if nothing changes.
	hereInterval = 10 * time.Second

	// forgetAfter is how long a server may be silent before it is forgotten.
	forgetAfter = 3 * hereInterval

	// maxHere is the length in bytes of all users whom a server names, about and at most: a
	// message to NATS may have 1 MiB. Of larger rooms it tells the number alone.
	maxHere = 512 << 10

	// maxCount is how many users a server may have in a room, at most: more than it may have
	// connections.
	maxCount = 1 << 24

	// maxUserID is the length in bytes of a user id, at most.
	maxUserID = 64
)

// A hereMessage is what a server says.
type hereMessage struct {
	Server string                    `json:"server"`
	Rooms  map[string]presence.Crowd `json:"rooms"` // null from a server that stops
}

// A here is who is in which room on this server.
type here struct {
	server  string
	changed chan struct{} // receives when it changed

	mu    sync.Mutex
	rooms map[string]presence.Crowd
}

func newHere() *here {
	return &here{server: newID(), changed: make(chan struct{}, 1), rooms: make(map[string]presence.Crowd)}
}

// set sets who is in a room.
func (h *here) set(room string, c presence.Crowd) {
	h.mu.Lock()
	if c.Count == 0 {
		delete(h.rooms, room)
	} else {
		h.rooms[room] = c
	}
	h.mu.Unlock()
	h.touch()
}

// touch has the others told soon.
func (h *here) touch() {
	select {
	case h.changed <- struct{}{}:
	default:
	}
}

// encode returns the message that says who is here.
func (h *here) encode() []byte {
	h.mu.Lock()
	rooms := maps.Clone(h.rooms)
	h.mu.Unlock()
	bySize := slices.SortedFunc(maps.Keys(rooms), func(a, b string) int {
		return cmp.Or(cmp.Compare(rooms[a].Count, rooms[b].Count), cmp.Compare(a, b))
	})
	size := 0
	for _, room := range bySize {
		c := rooms[room]
		for userID, name := range c.Names {
			size += len(userID) + 6*len(name) + 8 // JSON may need six bytes for one
		}
		if size > maxHere {
			rooms[room] = presence.Crowd{Count: c.Count}
		}
	}
	text, _ := json.Marshal(hereMessage{h.server, rooms}) // it can be encoded
	return text
}

// An elsewhere is who is in which room on other servers.
type elsewhere struct {
	version atomic.Uint64 // grows with each change

	mu      sync.Mutex
	servers map[string]serverHere
}

// A serverHere is what a server said last.
type serverHere struct {
	rooms map[string]presence.Crowd
	heard time.Time
}

func newElsewhere() *elsewhere {
	e := &elsewhere{servers: make(map[string]serverHere)}
	e.version.Store(1)
	return e
}

// set sets who is on a server, nil if it says goodbye. It reports whether the server was not
// known.
func (e *elsewhere) set(server string, rooms map[string]presence.Crowd, now time.Time) (isNew bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	_, known := e.servers[server]
	if rooms == nil {
		delete(e.servers, server)
	} else {
		e.servers[server] = serverHere{rooms, now}
	}
	e.version.Add(1)
	return !known && rooms != nil
}

// forget forgets servers that were silent for too long.
func (e *elsewhere) forget(now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for server, s := range e.servers {
		if now.Sub(s.heard) >= forgetAfter {
			delete(e.servers, server)
			e.version.Add(1)
		}
	}
}

// in returns who is in a room, on each other server where somebody is, in the order of the
// servers' ids: so it is the same until somebody comes or goes.
func (e *elsewhere) in(room string) (crowds []presence.Crowd) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, server := range slices.Sorted(maps.Keys(e.servers)) {
		if c, ok := e.servers[server].rooms[room]; ok {
			crowds = append(crowds, c)
		}
	}
	return crowds
}

// tellPresence tells the other servers who is here, after a change and every hereInterval,
// but not more than once a second.
func (s *Stream) tellPresence() {
	heartbeat := time.NewTicker(hereInterval)
	defer heartbeat.Stop()
	s.here.touch() // so that the others tell this server
	for {
		select {
		case <-s.here.changed:
		case <-heartbeat.C:
		case <-s.ctx.Done():
			return
		}
		s.elsewhere.forget(time.Now())
		if s.engine.Publish(hereSubject, s.here.encode()) != nil {
			s.here.touch() // there is no connection now
		}
		if !s.sleep(presence.Interval) {
			return
		}
	}
}

// goodbye tells the other servers that nobody is here any more.
func (s *Stream) goodbye() {
	text, _ := json.Marshal(hereMessage{Server: s.here.server}) // it can be encoded
	s.engine.Publish(hereSubject, text)                         // an error says that nobody hears it
}

// hearPresence takes what a server says.
func (s *Stream) hearPresence(m *Message) {
	var said hereMessage
	if json.Unmarshal(m.Data, &said) != nil || said.Server == s.here.server {
		return
	}
	for room, c := range said.Rooms {
		if !clean(c) {
			delete(said.Rooms, room)
		}
	}
	if s.elsewhere.set(said.Server, said.Rooms, time.Now()) {
		s.here.touch() // it does not know who is here
	}
}

// clean cleans the names in a crowd. It reports false if no server can have said who is in
// it: the notices made of it would be too long.
func clean(c presence.Crowd) bool {
	if c.Count < 1 || c.Count > maxCount || len(c.Names) > presence.MaxNames {
		return false
	}
	for userID, name := range c.Names {
		if len(userID) > maxUserID || strings.Trim(userID, "0123456789abcdef") != "" {
			return false
		}
		c.Names[userID] = protocol.CleanName(name)
	}
	return true
}
