package budget

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

const interval, burst = time.Second / 100, 10 * time.Second

func stays() bool { return false }

// takeAll takes at once what there is and returns how much it was.
func takeAll(b *Budget) (n int) {
	for b.Take(1) {
		n++
	}
	return n
}

func TestBurstAndRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(interval, burst).Of(netip.MustParseAddr("192.0.2.1"))
		if n := takeAll(b); n != 1000 {
			t.Errorf("%d at once, want 1000", n)
		}
		begin := time.Now()
		for range 50 {
			if err := b.Wait(nil, stays); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(begin); took != 50*interval {
			t.Errorf("the next 50 took %v", took)
		}
		time.Sleep(time.Hour)
		if n := takeAll(b); n != 1000 {
			t.Errorf("%d after an hour, want 1000", n)
		}
	})
}

// What costs several messages is had when there is enough for all of them, and uses nothing
// when there is not. Connections that wait come first.
func TestTakeSeveral(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(interval, burst).Of(netip.MustParseAddr("192.0.2.1"))
		b.Take(1)
		n := 0
		for b.Take(10) {
			n++
		}
		if left := takeAll(b); n != 99 || left != 9 {
			t.Errorf("%d times ten at once, and %d more, want 99 and 9", n, left)
		}
		time.Sleep(10*interval - 1)
		if b.Take(10) {
			t.Error("ten were there too early")
		}
		time.Sleep(time.Nanosecond)
		if !b.Take(10) || b.Take(1) {
			t.Error("ten were not there in time, or more than ten")
		}
		go b.Wait(nil, stays)
		synctest.Wait()
		time.Sleep(interval / 2)
		if b.Take(0) {
			t.Error("what was there went to another than who waited for it")
		}
		time.Sleep(interval)
		if !b.Take(0) {
			t.Error("nobody waits, and still nothing is there")
		}
	})
	synctest.Test(t, func(t *testing.T) {
		b := New(0, burst).Of(netip.MustParseAddr("192.0.2.1"))
		if !b.Take(1_000_000) {
			t.Error("without a limit there is one")
		}
	})
}

// The budget is that of the address, whatever connections it has, and of no other.
func TestAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bs := New(interval, burst)
		first := bs.Of(netip.MustParseAddr("192.0.2.1"))
		takeAll(first)
		first.Release()
		for addr, want := range map[string]int{"192.0.2.1": 0, "::ffff:192.0.2.1": 0, "192.0.2.2": 1000, "2001:db8::1": 1000, "2001:db8::2": 0, "2001:db8:0:1::1": 1000} {
			if addr == "2001:db8::2" {
				takeAll(bs.Of(netip.MustParseAddr("2001:db8::1")))
			}
			if addr == "2001:db8::1" {
				continue
			}
			if n := takeAll(bs.Of(netip.MustParseAddr(addr))); n != want {
				t.Errorf("%s has %d, want %d", addr, n, want)
			}
		}
	})
}

// Those that wait take turns, and nobody passes them.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bs := New(interval, burst)
		b := bs.Of(netip.Addr{})
		takeAll(b)
		var order []int
		for i := range 20 {
			go func() {
				b.Wait(nil, stays)
				order = append(order, i)
			}()
			synctest.Wait()
		}
		if bs.Throttled() != 1 {
			t.Error("does not show")
		}
		for range 20 {
			time.Sleep(interval)
			synctest.Wait()
			if len(order) < 20 && b.Take(1) {
				t.Error("one that just came passed those that wait")
			}
		}
		for i, who := range order {
			if i != who {
				t.Fatalf("the order was %v", order)
			}
		}
		if len(order) != 20 || bs.Throttled() != 0 {
			t.Errorf("%d had their turn", len(order))
		}
	})
}

// A peer that leaves, or a connection that ends, gives up its turn and uses nothing.
func TestWaitEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(time.Minute, time.Minute).Of(netip.Addr{})
		takeAll(b)
		begin := time.Now()
		stop := make(chan struct{})
		ended := make(chan error, 2)
		go func() { ended <- b.Wait(stop, stays) }()
		synctest.Wait()
		go func() { ended <- b.Wait(nil, func() bool { return time.Since(begin) > 5*time.Second }) }()
		time.Sleep(5500 * time.Millisecond)
		close(stop)
		if err := <-ended; err != ErrStopped {
			t.Errorf("stopped: %v", err)
		}
		if err := <-ended; err != ErrLeft || time.Since(begin) > 7*time.Second {
			t.Errorf("left: %v after %v", err, time.Since(begin))
		}
		if err := b.Wait(nil, stays); err != nil || time.Since(begin) != time.Minute {
			t.Errorf("the next: %v after %v", err, time.Since(begin))
		}
	})
}

// A peer that has left before its turn does not have one, however short the wait.
func TestLeftBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(interval, burst).Of(netip.Addr{})
		takeAll(b)
		begin := time.Now()
		if err := b.Wait(nil, func() bool { return true }); err != ErrLeft || time.Since(begin) != 0 {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		if err := b.Wait(nil, stays); err != nil || time.Since(begin) != interval {
			t.Errorf("the next: %v after %v", err, time.Since(begin))
		}
	})
}

// Addresses are forgotten when they have all their budget again and no connection.
func TestAddressesAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bs := New(interval, burst)
		here := bs.Of(netip.MustParseAddr("192.0.2.1"))
		for i := range 1000 {
			b := bs.Of(netip.MustParseAddr(fmt.Sprintf("10.0.%d.%d", i/250, i%250)))
			takeAll(b)
			b.Release()
		}
		time.Sleep(burst - time.Second)
		bs.Of(netip.MustParseAddr("192.0.2.1"))
		if n := len(bs.byAddr); n != 1001 {
			t.Errorf("%d addresses, want all 1001", n)
		}
		time.Sleep(2 * time.Second)
		bs.Of(netip.MustParseAddr("192.0.2.1"))
		if n := len(bs.byAddr); n != 1 || bs.Of(netip.MustParseAddr("192.0.2.1")) != here {
			t.Errorf("%d addresses, want the one that is here", n)
		}
	})
}

func TestRooms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(interval, burst).Of(netip.Addr{})
		for i := range 100 {
			if wait := b.Room(); wait != 0 {
				t.Fatalf("room %d waits for %v", i, wait)
			}
		}
		if wait := b.Room(); wait != roomInterval {
			t.Errorf("the next room waits for %v", wait)
		}
		for range 50 {
			b.Room()
		}
		if wait := b.Room(); wait != maxRoomWait {
			t.Errorf("one of many at once waits for %v", wait)
		}
	})
}

func TestNoLimit(t *testing.T) {
	b := New(0, burst).Of(netip.Addr{})
	for range 100_000 {
		if !b.Take(1) || b.Room() != 0 {
			t.Fatal("limited")
		}
	}
}
