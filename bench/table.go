package main

import (
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"time"
)

// A row of the table is a load as people name it, and the runs that it takes.
type row struct {
	name, description string
	loads             []string
}

var allRows = []row{
	{"A", "10 speakers, each waits for its own line", []string{"A"}},
	{"B", "10 speakers, 8 lines in flight each", []string{"B"}},
	{"C", "200 speakers, each waits for its own line", []string{"C"}},
	{"D", "500 lines a second from 200 speakers", []string{"D"}},
	{"E", "50 lines a second from 10 speakers", []string{"E"}},
	{"F", "5,000 idle connections", []string{"idle"}},
	{"G", "connecting 5,000", []string{"idle"}},
	{"H", "E with 100, 1,000 and 9,000 listeners", []string{"E for 100", "E", "E for 9,000"}},
	{"J", "C on chat.v1, ours alone", []string{"C", "C on chat.v1"}},
}

// selectRows returns the rows of a list such as "A,C"; all for an empty one.
func selectRows(list string) ([]row, error) {
	if list == "" {
		return allRows, nil
	}
	var rows []row
	for name := range strings.SplitSeq(strings.ToUpper(list), ",") {
		i := slices.IndexFunc(allRows, func(r row) bool { return r.name == strings.TrimSpace(name) })
		if i < 0 {
			return nil, fmt.Errorf("there is no load %q", name)
		}
		rows = append(rows, allRows[i])
	}
	return rows, nil
}

// needed reports whether one of the rows takes the load.
func needed(rows []row, load string) bool {
	return slices.ContainsFunc(rows, func(r row) bool { return slices.Contains(r.loads, load) })
}

// results holds what came of all runs.
type results struct {
	heading        string
	names          [2]string
	runs           [2]map[string][]result // of each program, by load; without faults
	faults         []string
	generatorShare []float64 // the generator's processor time of the server's, in each run
}

func newResults(programs [2]program, rounds int, window time.Duration) *results {
	return &results{
		heading: fmt.Sprintf("Medians of %d runs each, of %v; %d CPUs, %s. Messages of 64 bytes, 1,000 listeners where no number is given.",
			2*rounds, window, runtime.NumCPU(), runtime.Version()),
		names: [2]string{programs[ours].name, programs[other].name},
		runs:  [2]map[string][]result{{}, {}},
	}
}

func (rs *results) add(p int, load string, r result) {
	if r.fault != "" {
		rs.faults = append(rs.faults, fmt.Sprintf("FAULT of %s under load %s: %s", rs.names[p], load, r.fault))
		return
	}
	rs.runs[p][load] = append(rs.runs[p][load], r)
	if r.cpu > 0 {
		rs.generatorShare = append(rs.generatorShare, r.ownCPU.Seconds()/r.cpu.Seconds())
	}
}

// A measure is a number that a run yields, and how to print it.
type measure struct {
	name  string
	of    func(result) float64
	print func(float64) string
}

var (
	deliveries   = measure{"deliveries/s", result.rate, printCount}
	perDelivery  = measure{"CPU per delivery", result.perDelivery, printMicroseconds}
	p50          = measure{"latency, median", func(r result) float64 { return r.p50.Seconds() }, printMilliseconds}
	p99          = measure{"latency, p99", func(r result) float64 { return r.p99.Seconds() }, printMilliseconds}
	disconnected = measure{"thrown out, at most", func(r result) float64 { return float64(r.disconnected) }, printCount}
	memory       = measure{"memory, each", func(r result) float64 { return float64(r.memory) / float64(r.joined) }, printKilobytes}
	joinCPU      = measure{"CPU, each", func(r result) float64 { return r.joinCPU.Seconds() / float64(r.joined) }, printMicroseconds}
	joinTime     = measure{"time, each", func(r result) float64 { return r.joinTime.Seconds() / float64(r.joined) }, printMicroseconds}
)

// table returns the rows, as text.
func (rs *results) table(rows []row) string {
	t := new(table)
	t.line("", rs.names[ours], rs.names[other], "ratio")
	for _, r := range rows {
		t.name, t.description = r.name, r.description
		switch r.name {
		case "F":
			rs.compare(t, "", memory, "idle")
		case "G":
			rs.compare(t, "", joinCPU, "idle")
			rs.compare(t, "", joinTime, "idle")
		case "H":
			first, last := r.loads[0], r.loads[2]
			rs.compare(t, " (100)", perDelivery, first)
			rs.compare(t, " (1,000)", perDelivery, r.loads[1])
			rs.compare(t, " (9,000)", perDelivery, last)
			grows := func(p int) string {
				return printRatio(rs.median(p, last, perDelivery) / rs.median(p, first, perDelivery))
			}
			t.line("the last, of the first", grows(ours), grows(other), "")
			rs.compareWorst(t, disconnected, last)
		case "J":
			classic, v1 := r.loads[0], r.loads[1]
			for _, m := range []measure{deliveries, perDelivery} {
				was, is := rs.median(ours, classic, m), rs.median(ours, v1, m)
				t.line(m.name, m.print(is), "", printRatio(is/was)+" of C's")
			}
			t.line(disconnected.name, disconnected.print(rs.worst(ours, v1, disconnected)), "", "")
		default:
			load := r.loads[0]
			rs.compare(t, "", deliveries, load)
			rs.compare(t, "", perDelivery, load)
			if r.name == "D" || r.name == "E" {
				rs.compare(t, "", p50, load)
				rs.compare(t, "", p99, load)
			}
			rs.compareWorst(t, disconnected, load)
		}
	}
	fmt.Fprintf(t, "\n%s\n", rs.heading)
	if len(rs.generatorShare) > 0 {
		fmt.Fprintf(t, "The load generator used %.2f to %.2f of the server's CPU time, median %.2f.\n",
			slices.Min(rs.generatorShare), slices.Max(rs.generatorShare), median(rs.generatorShare))
	}
	for _, f := range rs.faults {
		fmt.Fprintln(t, f)
	}
	return t.String()
}

// compare adds the medians of both programs and their ratio.
func (rs *results) compare(t *table, label string, m measure, load string) {
	a, b := rs.median(ours, load, m), rs.median(other, load, m)
	t.line(m.name+label, m.print(a), m.print(b), printRatio(a/b))
}

// compareWorst adds the largest values of both programs.
func (rs *results) compareWorst(t *table, m measure, load string) {
	t.line(m.name, m.print(rs.worst(ours, load, m)), m.print(rs.worst(other, load, m)), "")
}

// table is a table under way.
type table struct {
	strings.Builder
	name, description string // of the row, until its first line
}

func (t *table) line(measure, a, b, ratio string) {
	line := fmt.Sprintf("%-2s %-42s %-24s %10s %10s   %s", t.name, t.description, measure, a, b, ratio)
	fmt.Fprintln(t, strings.TrimRight(line, " "))
	t.name, t.description = "", ""
}

// values are what a measure comes to in the runs of a program under a load.
func (rs *results) values(p int, load string, m measure) []float64 {
	var values []float64
	for _, r := range rs.runs[p][load] {
		values = append(values, m.of(r))
	}
	return values
}

func (rs *results) median(p int, load string, m measure) float64 {
	return median(rs.values(p, load, m))
}

func (rs *results) worst(p int, load string, m measure) float64 {
	values := rs.values(p, load, m)
	if len(values) == 0 {
		return math.NaN()
	}
	return slices.Max(values)
}

// median returns the middle value, or the mean of the two in the middle, or NaN of nothing.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	if n == 0 {
		return math.NaN()
	}
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// percentile returns the smallest of the sorted values that p percent do not exceed,
// or 0 of nothing.
func percentile(sorted []time.Duration, p int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[max(0, (len(sorted)*p+99)/100-1)]
}

func (r result) String() string {
	switch {
	case r.fault != "":
		return "FAULT: " + r.fault
	case r.time == 0:
		return fmt.Sprintf("%s each, connecting %s CPU and %s each",
			printKilobytes(memory.of(r)), printMicroseconds(joinCPU.of(r)), printMicroseconds(joinTime.of(r)))
	}
	s := fmt.Sprintf("%s deliveries/s, %s CPU each, %d thrown out, generator's CPU %.2f of the server's",
		printCount(r.rate()), printMicroseconds(r.perDelivery()), r.disconnected, r.ownCPU.Seconds()/r.cpu.Seconds())
	if r.p99 > 0 {
		s += fmt.Sprintf(", latency %s median, %s p99", printMilliseconds(r.p50.Seconds()), printMilliseconds(r.p99.Seconds()))
	}
	return s
}

func printCount(n float64) string {
	switch {
	case math.IsNaN(n):
		return "-"
	case n >= 1e6:
		return fmt.Sprintf("%.2f M", n/1e6)
	case n >= 10e3:
		return fmt.Sprintf("%.0f k", n/1e3)
	}
	return fmt.Sprintf("%.0f", n)
}

func printMicroseconds(seconds float64) string { return printUnit("%.2f µs", seconds*1e6) }
func printMilliseconds(seconds float64) string { return printUnit("%.2f ms", seconds*1e3) }
func printKilobytes(bytes float64) string      { return printUnit("%.1f KiB", bytes/1024) }
func printRatio(ratio float64) string          { return printUnit("%.2f", ratio) }

func printUnit(format string, n float64) string {
	if math.IsNaN(n) {
		return "-"
	}
	return fmt.Sprintf(format, n)
}
