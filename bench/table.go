package main

import (
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"time"
)

// A row of the table is a load as people name it.
type row struct {
	name, description string
	measures          []measure
	loads             []string // the runs that it takes
}

var rows = []row{
	{"A", "10 speakers, each waits for its own line", closedLoop, []string{"A"}},
	{"B", "10 speakers, 8 lines in flight each", closedLoop, []string{"B"}},
	{"C", "200 speakers, each waits for its own line", closedLoop, []string{"C"}},
	{"D", "500 lines a second from 200 speakers", openLoop, []string{"D"}},
	{"E", "50 lines a second from 10 speakers", openLoop, []string{"E"}},
	{"F", "5,000 idle connections", []measure{memory}, []string{"idle"}},
	{"G", "connecting 5,000", []measure{joinCPU, joinTime}, []string{"idle"}},
	{"H", "E with 100, 1,000 and 9,000 listeners", nil, []string{"E for 100", "E", "E for 9,000"}},
	{"J", "C on chat.v1, ours alone", nil, []string{"C", "C on chat.v1"}},
	{"K", "20 lines a second from one speaker among 50", openLoop, []string{"K"}},
	{"L", "A with GOMAXPROCS 1 and 2", nil, []string{"A on 1", "A on 2"}},
}

// A measure is a number that a run yields.
type measure struct {
	name   string
	of     func(result) float64
	format string // of the number; "" for a count
	worst  bool   // the table shows the largest of all runs, not the median and its ratio
}

var (
	deliveries   = measure{"deliveries/s", func(r result) float64 { return float64(r.deliveries) / r.time.Seconds() }, "", false}
	perDelivery  = measure{"CPU per delivery", func(r result) float64 { return 1e6 * r.cpu.Seconds() / float64(r.deliveries) }, "%.2f µs", false}
	p50          = measure{"latency, median", func(r result) float64 { return 1e3 * r.p50.Seconds() }, "%.2f ms", false}
	p99          = measure{"latency, p99", func(r result) float64 { return 1e3 * r.p99.Seconds() }, "%.2f ms", false}
	disconnected = measure{"disconnected, at most", func(r result) float64 { return float64(r.disconnected) }, "", true}
	memory       = measure{"memory, each", func(r result) float64 { return float64(r.memory) / 1024 / float64(r.joined) }, "%.1f KiB", false}
	joinCPU      = measure{"CPU, each", func(r result) float64 { return 1e6 * r.joinCPU.Seconds() / float64(r.joined) }, "%.2f µs", false}
	joinTime     = measure{"time, each", func(r result) float64 { return 1e6 * r.joinTime.Seconds() / float64(r.joined) }, "%.2f µs", false}
	nodeShare    = measure{"NATS node's CPU, of the server's", func(r result) float64 { return r.nodeCPU.Seconds() / r.cpu.Seconds() }, "%.2f", false}
	share        = measure{"generator's CPU, of the server's", func(r result) float64 { return r.ownCPU.Seconds() / r.cpu.Seconds() }, "%.2f", false}

	closedLoop = []measure{deliveries, perDelivery, disconnected}
	openLoop   = []measure{deliveries, perDelivery, p50, p99, disconnected}
)

// print returns a number as the table shows it.
func (m measure) print(n float64) string {
	switch {
	case math.IsNaN(n):
		return "-"
	case m.format != "":
		return fmt.Sprintf(m.format, n)
	case n >= 1e6:
		return fmt.Sprintf("%.2f M", n/1e6)
	case n >= 10e3:
		return fmt.Sprintf("%.0f k", n/1e3)
	}
	return fmt.Sprintf("%.0f", n)
}

// ratio returns a/b as the table shows it.
func ratio(a, b float64) string { return measure{format: "%.2f"}.print(a / b) }

// selectRows returns the rows of a list such as "A,C"; all but K for an empty one.
func selectRows(list string) ([]row, error) {
	if list == "" {
		return slices.DeleteFunc(slices.Clone(rows), func(r row) bool { return r.name == "K" }), nil
	}
	var selected []row
	for name := range strings.SplitSeq(strings.ToUpper(list), ",") {
		i := slices.IndexFunc(rows, func(r row) bool { return r.name == strings.TrimSpace(name) })
		if i < 0 {
			return nil, fmt.Errorf("there is no load %q", name)
		}
		selected = append(selected, rows[i])
	}
	return selected, nil
}

// needed reports whether one of the rows takes a load.
func needed(rows []row, load string) bool {
	return slices.ContainsFunc(rows, func(r row) bool { return slices.Contains(r.loads, load) })
}

// A series is the runs of one of the programs under a load.
type series struct {
	program int
	load    string
}

// results are those of all runs.
type results struct {
	programs [2]program
	rounds   int
	window   time.Duration
	runs     map[series][]result // without faults
	faults   []string
	shares   []float64 // of each run
}

// add adds the result of a run.
func (rs *results) add(s series, r result) {
	if r.fault != "" {
		rs.faults = append(rs.faults, fmt.Sprintf("FAULT of %s under load %s: %s", rs.programs[s.program].name, s.load, r.fault))
		return
	}
	rs.runs[s] = append(rs.runs[s], r)
	if r.cpu > 0 {
		rs.shares = append(rs.shares, share.of(r))
	}
}

// value returns what a measure comes to in all runs of a program under a load; NaN
// without any.
func (rs *results) value(program int, load string, m measure) float64 {
	var values []float64
	for _, r := range rs.runs[series{program, load}] {
		values = append(values, m.of(r))
	}
	if m.worst && len(values) > 0 {
		return slices.Max(values)
	}
	return median(values)
}

// table returns the rows as text, and below them how they were measured and the faults.
func (rs *results) table(rows []row) string {
	t := new(table)
	t.line("", rs.programs[ours].name, rs.programs[other].name, "ratio")
	for _, r := range rows {
		t.name, t.description = r.name, r.description
		switch r.name {
		case "H":
			rs.growth(t, r.loads, " (100)", " (1,000)", " (9,000)")
		case "L":
			for i, label := range []string{" (1)", " (2)"} {
				rs.compare(t, deliveries, r.loads[i], label)
			}
			rs.growth(t, r.loads, " (1)", " (2)")
		case "J":
			rs.onChatV1(t, r.loads[0], r.loads[1])
		default:
			for _, m := range r.measures {
				rs.compare(t, m, r.loads[0], "")
			}
			if rs.programs[ours].node != "" {
				t.line(nodeShare.name, nodeShare.print(rs.value(ours, r.loads[0], nodeShare)), "", "")
			}
		}
	}
	fmt.Fprintf(t, "\nMedians of %d runs each, of %v; %d CPUs, %s. Messages of 64 bytes, 1,000 listeners where no number is given.\n",
		2*rs.rounds, rs.window, runtime.NumCPU(), runtime.Version())
	if len(rs.shares) > 0 {
		fmt.Fprintf(t, "The load generator used %.2f to %.2f of the server's CPU time, median %.2f.\n",
			slices.Min(rs.shares), slices.Max(rs.shares), median(rs.shares))
	}
	for _, f := range rs.faults {
		fmt.Fprintln(t, f)
	}
	return t.String()
}

// compare adds a line with both programs under a load, which a label may name.
func (rs *results) compare(t *table, m measure, load, label string) {
	a, b := rs.value(ours, load, m), rs.value(other, load, m)
	if m.worst {
		t.line(m.name+label, m.print(a), m.print(b), "")
	} else {
		t.line(m.name+label, m.print(a), m.print(b), ratio(a, b))
	}
}

// growth adds how the cost of a delivery grows through some loads, which labels name. It
// should not grow much: more than 1.4 times shows that something does not scale.
func (rs *results) growth(t *table, loads []string, labels ...string) {
	for i, label := range labels {
		rs.compare(t, perDelivery, loads[i], label)
	}
	first, last := loads[0], loads[len(loads)-1]
	of := func(p int) string { return ratio(rs.value(p, last, perDelivery), rs.value(p, first, perDelivery)) }
	t.line("the last, of the first", of(ours), of(other), "")
	rs.compare(t, disconnected, last, "")
}

// onChatV1 adds our server under a load on chat.v1, and its ratio to the classic protocol.
func (rs *results) onChatV1(t *table, classic, chatV1 string) {
	for _, m := range []measure{deliveries, perDelivery} {
		a := rs.value(ours, chatV1, m)
		t.line(m.name, m.print(a), "", ratio(a, rs.value(ours, classic, m))+" of C's")
	}
	t.line(disconnected.name, disconnected.print(rs.value(ours, chatV1, disconnected)), "", "")
}

// A table is a text with columns.
type table struct {
	strings.Builder
	name, description string // of the row, until its first line
}

// line adds a line to the row.
func (t *table) line(measure, a, b, ratio string) {
	line := fmt.Sprintf("%-2s %-42s %-24s %10s %10s   %s", t.name, t.description, measure, a, b, ratio)
	fmt.Fprintln(t, strings.TrimRight(line, " "))
	t.name, t.description = "", ""
}

// median returns the middle value, or the mean of the two in the middle; NaN of nothing.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	if n == 0 {
		return math.NaN()
	}
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// percentile returns the smallest of the sorted values that p percent do not exceed; 0 of
// nothing.
func percentile(sorted []time.Duration, p int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[max(0, (len(sorted)*p+99)/100-1)]
}

// String returns the result in one line.
func (r result) String() string {
	of := func(m measure) string { return m.print(m.of(r)) }
	switch {
	case r.fault != "":
		return "FAULT: " + r.fault
	case r.time == 0:
		return fmt.Sprintf("%s each, connecting %s CPU and %s each", of(memory), of(joinCPU), of(joinTime))
	}
	s := fmt.Sprintf("%s deliveries/s, %s CPU each, %s disconnected, generator's CPU %s of the server's",
		of(deliveries), of(perDelivery), of(disconnected), of(share))
	if r.p99 > 0 {
		s += fmt.Sprintf(", latency %s median, %s p99", of(p50), of(p99))
	}
	return s
}
