package main

import (
	"context"
	"runtime"
	"time"
)

// Hub is the room. One goroutine, run, owns everything under "owned by run";
// everyone else reaches it through the channels, by offer.
type Hub struct {
	register   chan *Client   // who comes in
	unregister chan departure // who goes, and how
	broadcast  chan message   // what is said
	stopped    chan struct{}  // closed by run when it returns

	journal *journal

	// owned by run
	clients map[*Client]bool
	text    []byte // the batch being gathered, as the classic wire spells it
	line    []byte // scratch: one message, spelled
}

// A departure is a client that goes, and how its connection ends.
type departure struct {
	client *Client
	ending ending
}

func newHub(j *journal) *Hub {
	return &Hub{
		register:   make(chan *Client),
		unregister: make(chan departure),
		broadcast:  make(chan message, 256), // so that those who speak at once share a batch
		stopped:    make(chan struct{}),
		journal:    j,
		clients:    make(map[*Client]bool),
	}
}

// offer hands v to the hub on ch. It reports false if the hub has stopped.
func offer[T any](h *Hub, ch chan<- T, v T) bool {
	select {
	case ch <- v:
		return true
	case <-h.stopped:
		return false
	}
}

// run is the life of the room, until ctx is done. Then everyone hears what has
// been said so far and is let go. Pumps outlive it: they still have that to write.
func (h *Hub) run(ctx context.Context) {
	defer close(h.stopped)
	pings := time.NewTicker(pingPeriod)
	defer pings.Stop()
	for {
		select {
		case client := <-h.register:
			h.clients[client] = true
		case d := <-h.unregister:
			h.sayWaiting() // what it said before it went counts
			h.drop(d.client, d.ending)
		case m := <-h.broadcast:
			runtime.Gosched() // whoever is about to speak does it now, and shares the batch
			h.gather(m)
			h.sayWaiting()
		case <-pings.C:
			for client := range h.clients {
				select {
				case client.send <- ping:
				default: // it is not idle
				}
			}
		case <-ctx.Done():
			h.sayWaiting()
			for client := range h.clients {
				h.drop(client, stopping)
			}
			return
		}
	}
}

// sayWaiting takes what waits on broadcast, and gives everyone all that is gathered.
func (h *Hub) sayWaiting() {
	for n := len(h.broadcast); n > 0; n-- {
		h.gather(<-h.broadcast)
	}
	h.flush()
}

// gather adds a message to the batch, unless its sender was dropped since.
func (h *Hub) gather(m message) {
	if !h.clients[m.from] {
		return
	}
	h.line = m.appendClassic(h.line[:0])
	if len(h.text)+1+len(h.line) > maxFrame {
		h.flush()
	}
	if len(h.text) > 0 {
		h.text = append(h.text, '\n')
	}
	h.text = append(h.text, h.line...)
}

// flush gives everyone the batch gathered so far. A client whose queue is full
// is dropped: to wait for it would be to let it decide how fast all others hear.
func (h *Hub) flush() {
	if len(h.text) == 0 {
		return
	}
	b := newBatch(h.text)
	h.text = h.text[:0]
	for client := range h.clients {
		select {
		case client.send <- b:
		default:
			for len(client.send) > 0 { // it would not take them in time either
				select {
				case <-client.send:
				default:
				}
			}
			h.drop(client, tooSlow)
		}
	}
}

// drop lets a client go: it is not heard from now on, and has closeWait to hear
// what is in its queue and its ending. It may come twice, for a client found
// too slow as it leaves: the first counts.
func (h *Hub) drop(c *Client, e ending) {
	if !h.clients[c] {
		return
	}
	delete(h.clients, c)
	c.dismiss(e)
	if e.ours {
		h.journal.printf("dropped", "%s dropped: %s", c, e.reason)
	}
}
