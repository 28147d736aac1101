package main

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"chat/internal/protocol"
)

// awaitEnd waits until the hold is to end, as the hub does.
func awaitEnd(c *coalescer) {
	select {
	case <-c.written:
	case <-c.timer.C:
	}
}

// When most clients were written a batch, the hold ends: at once if that took little
// time, after a third of it more if it took longer, and after maxHold in any case.
func TestHold(t *testing.T) {
	for _, row := range []struct {
		clients int
		written int           // of these
		after   time.Duration // from the beginning
		want    time.Duration // until the hold ends
	}{
		{1, 1, 0, 0},
		{2, 1, 3*minHold - 1, 3*minHold - 1},
		{2, 1, 3 * minHold, 4 * minHold},
		{2, 1, 6 * time.Millisecond, 8 * time.Millisecond},
		{2, 1, maxHold - 1, maxHold - 1 + (maxHold-1)/3},
		{2, 2, 6 * time.Millisecond, 8 * time.Millisecond},
		{2, 0, 0, maxHold},
		{100, 92, time.Millisecond, maxHold}, // 7 may be stragglers, not 8
		{100, 93, time.Millisecond, time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			c := newCoalescer()
			b := new(batch)
			begin := time.Now()
			c.begin(b, row.clients)
			if !c.holds {
				t.Error("does not hold")
			}
			go func() {
				time.Sleep(row.after)
				for range row.written {
					b.markWritten()
				}
			}()
			awaitEnd(c)
			c.release()
			if took := time.Since(begin); took != row.want || c.holds {
				t.Errorf("%+v: ended after %v", row, took)
			}
		})
	}
}

// A batch that most were written late, after the hold for the next one began, does not
// end that hold.
func TestLateBatchEndsNoHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCoalescer()
		late, current := new(batch), new(batch)
		c.begin(late, 2)
		awaitEnd(c)
		c.release()
		begin := time.Now()
		c.begin(current, 2)
		late.markWritten()
		time.Sleep(time.Millisecond)
		late.markWritten()
		awaitEnd(c)
		if held := time.Since(begin); held != maxHold {
			t.Errorf("held for %v, want %v", held, maxHold)
		}
	})
}

// The end of a hold that a new one replaces does not end the new one.
func TestHoldIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCoalescer()
		b := new(batch)
		c.begin(b, 1)
		b.markWritten() // the hold is to end now
		time.Sleep(time.Millisecond)
		begin := time.Now()
		c.begin(new(batch), 1)
		awaitEnd(c)
		if held := time.Since(begin); held != maxHold {
			t.Errorf("held for %v, want %v", held, maxHold)
		}
	})
}

// A batch's frames hold protocol.MaxFrame bytes, and not one more, in either protocol.
func TestBuilderFillsFrames(t *testing.T) {
	x := func(n int) []byte { return []byte(strings.Repeat("x", n)) }
	clients := [protocol.NumProtocols]int{1, 1}
	for _, sizes := range [][protocol.NumProtocols]int{
		{protocol.Classic: 100, protocol.ChatV1: protocol.MaxFrame - 1001},
		{protocol.Classic: protocol.MaxFrame - 1001, protocol.ChatV1: 100},
	} {
		var bb batchBuilder
		full := [protocol.NumProtocols][]byte{x(protocol.MaxFrame), x(protocol.MaxFrame)}
		if !bb.fits(full) {
			t.Error("the longest line does not fit")
		}
		bb.add([protocol.NumProtocols][]byte{x(sizes[0]), x(sizes[1])}, clients, time.Now())
		if !bb.fits([protocol.NumProtocols][]byte{x(1000), x(1000)}) {
			t.Errorf("beside %v bytes 1000 do not fit", sizes)
		}
		if bb.fits([protocol.NumProtocols][]byte{x(1001), x(1001)}) {
			t.Errorf("beside %v bytes 1001 fit", sizes)
		}
	}
}

// Nothing is framed for a protocol that no client speaks.
func TestBuilderSkipsUnspokenProtocols(t *testing.T) {
	var bb batchBuilder
	lines := [protocol.NumProtocols][]byte{[]byte("hello"), []byte("{}")}
	bb.add(lines, [protocol.NumProtocols]int{protocol.Classic: 1}, time.Now())
	bb.add(lines, [protocol.NumProtocols]int{protocol.Classic: 1}, time.Now())
	b := bb.take()
	if text := string(b.payloads[protocol.Classic].text); text != "hello\nhello" {
		t.Errorf("%q", text)
	}
	if p := b.payloads[protocol.ChatV1]; p.frame != nil || p.text != nil {
		t.Errorf("%q for nobody", p.text)
	}
	if bb.lines != 0 || bb.take().payloads[protocol.Classic].text != nil {
		t.Error("the next batch begins with the last one's lines")
	}
}
