package main

import (
	"math"
	"strings"
	"testing"
	"time"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		of   []float64
		want float64
	}{
		{[]float64{3}, 3},
		{[]float64{9, 1, 2}, 2},
		{[]float64{4, 1, 9, 2}, 3},
	} {
		if got := median(c.of); got != c.want {
			t.Errorf("median of %v: %v, want %v", c.of, got, c.want)
		}
	}
	if got := median(nil); !math.IsNaN(got) {
		t.Errorf("median of nothing: %v", got)
	}
}

func TestPercentile(t *testing.T) {
	var hundred []time.Duration
	for i := range 100 {
		hundred = append(hundred, time.Duration(i+1))
	}
	for _, c := range []struct {
		of      []time.Duration
		p, want int
	}{
		{hundred, 50, 50},
		{hundred, 99, 99},
		{hundred, 100, 100},
		{hundred[:10], 99, 10},
		{hundred[:3], 50, 2},
		{hundred[:1], 99, 1},
		{nil, 99, 0},
	} {
		if got := percentile(c.of, c.p); got != time.Duration(c.want) {
			t.Errorf("percentile %d of %d values: %d, want %d", c.p, len(c.of), got, c.want)
		}
	}
}

func TestSchedule(t *testing.T) {
	for _, c := range []struct {
		line int
		rate float64
		want time.Duration
	}{
		{0, 50, 0},
		{1, 50, 20 * time.Millisecond},
		{500, 500, time.Second},
		{3, 1000, 3 * time.Millisecond},
	} {
		if got := dueTime(c.line, c.rate); got != c.want {
			t.Errorf("line %d at %v a second: due at %v, want %v", c.line, c.rate, got, c.want)
		}
	}
}

func TestTable(t *testing.T) {
	rs := newResults([2]program{{name: "chat"}, {name: "example"}}, 1, time.Second)
	for i, n := range []int{4_000_000, 2_000_000} {
		for range 2 {
			rs.add(i, "A", result{deliveries: n, time: time.Second, cpu: 2 * time.Second, ownCPU: time.Second, disconnected: 5 * i})
			rs.add(i, "C", result{deliveries: n, time: time.Second})
			rs.add(i, "idle", result{joined: 5000, memory: (i + 1) * 50 << 20})
		}
	}
	rs.add(ours, "C on chat.v1", result{deliveries: 8_000_000, time: time.Second})
	rs.add(other, "B", result{fault: "it lies"})
	table := rs.table(rows)
	for _, want := range []string{
		"A  10 speakers, each waits for its own line   deliveries/s                 4.00 M     2.00 M   2.00\n",
		"CPU per delivery            0.50 µs    1.00 µs   0.50\n",
		"disconnected, at most             0          5\n",
		"memory, each               10.2 KiB   20.5 KiB   0.50\n",
		"deliveries/s                 8.00 M              2.00 of C's\n",
		"FAULT of example under load B: it lies\n",
		"used 0.50 to 0.50 of",
	} {
		if !strings.Contains(table, want) {
			t.Errorf("%q is not in\n%s", want, table)
		}
	}
}
