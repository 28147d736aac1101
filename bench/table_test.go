package main

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestMedian(t *testing.T) {
	for want, of := range map[float64][]float64{1: {1}, 2: {9, 1, 2}, 3: {4, 1, 9, 2}} {
		if got := median(of); got != want {
			t.Errorf("median of %v: %v, want %v", of, got, want)
		}
	}
	if got := median(nil); !math.IsNaN(got) {
		t.Errorf("median of nothing: %v", got)
	}
}

func TestPercentile(t *testing.T) {
	var sorted []time.Duration // 1 to 100
	for i := range 100 {
		sorted = append(sorted, time.Duration(i+1))
	}
	for _, c := range []struct{ p, of, want int }{
		{50, 100, 50}, {99, 100, 99}, {100, 100, 100}, {99, 10, 10}, {50, 3, 2}, {99, 1, 1}, {99, 0, 0},
	} {
		if got := percentile(sorted[:c.of], c.p); got != time.Duration(c.want) {
			t.Errorf("percentile %d of %d values: %d, want %d", c.p, c.of, got, c.want)
		}
	}
}

func TestDueTime(t *testing.T) {
	for _, c := range []struct{ line, rate, milliseconds int }{{0, 50, 0}, {1, 50, 20}, {500, 500, 1000}, {3, 1000, 3}} {
		if got := dueTime(c.line, float64(c.rate)); got != time.Duration(c.milliseconds)*time.Millisecond {
			t.Errorf("line %d at %d a second: due at %v, want %d ms", c.line, c.rate, got, c.milliseconds)
		}
	}
}

func TestTable(t *testing.T) {
	rs := results{programs: [2]program{{name: "chat"}, {name: "example"}}, runs: map[series][]result{}}
	for i, n := range []int{4_000_000, 2_000_000} {
		for j := range 2 {
			r := result{deliveries: n, time: time.Second, cpu: 2 * time.Second, ownCPU: time.Second, disconnected: 5 * i * j}
			rs.add(series{i, "A"}, r)
			rs.add(series{i, "C"}, r)
			rs.add(series{i, "E for 100"}, r)
			rs.add(series{i, "A on 1"}, r)
			rs.add(series{i, "idle"}, result{joined: 5000, memory: (i + 1) * 50 << 20})
			r.cpu *= time.Duration(2 - i)
			rs.add(series{i, "E for 9,000"}, r)
			rs.add(series{i, "A on 2"}, r)
		}
	}
	rs.add(series{ours, "C on chat.v1"}, result{deliveries: 8_000_000, time: time.Second})
	rs.add(series{other, "B"}, result{fault: "it lies"})
	table := rs.table(rows)
	for _, want := range []string{
		"A  10 speakers, each waits for its own line   deliveries/s                 4.00 M     2.00 M   2.00\n",
		"CPU per delivery            0.50 µs    1.00 µs   0.50\n",
		"disconnected, at most             0          5\n",
		"memory, each               10.2 KiB   20.5 KiB   0.50\n",
		"CPU per delivery (1,000)          -          -   -\n",
		"the last, of the first         2.00       1.00\n",
		"J  C on chat.v1, ours alone                   deliveries/s                 8.00 M              2.00 of C's\n",
		"L  A with GOMAXPROCS 1 and 2                  deliveries/s (1)             4.00 M     2.00 M   2.00\n",
		"CPU per delivery (2)        1.00 µs    1.00 µs   1.00\n",
		"FAULT of example under load B: it lies\n",
		"used 0.25 to 0.50 of",
	} {
		if !strings.Contains(table, want) {
			t.Errorf("%q is not in\n%s", want, table)
		}
	}
}

// A command's arguments hold the address wherever it is asked for.
func TestArgsFor(t *testing.T) {
	p := newCommand("uws --listen={addr}  -v {addr}")
	if got := p.argsFor("h:1"); p.path != "uws" || !slices.Equal(got, []string{"--listen=h:1", "-v", "h:1"}) {
		t.Errorf("%s %q", p.path, got)
	}
	if got := p.argsFor("h:2"); got[2] != "h:2" {
		t.Errorf("the second time %q", got)
	}
}
