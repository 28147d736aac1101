package ratelog

import (
	"bytes"
	"io"
	"log"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// capture collects the log, without timestamps, until the test ends. It is read only
// while every goroutine of the bubble waits.
func capture(t *testing.T) *bytes.Buffer {
	var buf bytes.Buffer
	log.SetOutput(&buf)
	log.SetFlags(0)
	t.Cleanup(func() {
		log.SetOutput(io.Discard)
		log.SetFlags(log.LstdFlags)
	})
	return &buf
}

func TestOneLineASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := capture(t)
		l := New()
		for i := range 50 {
			l.Printf("drop", "line %d", i)
			l.Printf("other", "other %d", i)
			time.Sleep(49 * time.Millisecond)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		for line, want := range map[string]int{
			"line 0\n": 1, "drop: 20 more\n": 2, "drop: 9 more\n": 1,
			"other 0\n": 1, "other: 20 more\n": 2, "other: 9 more\n": 1,
			"\n": 8,
		} {
			if got := strings.Count(out.String(), line); got != want {
				t.Errorf("%q is %d times in the log, want %d:\n%s", line, got, want, out)
			}
		}
	})
}

// After a quiet second a kind is forgotten: the next line is logged as it is, and a
// Logger does not grow with the kinds that it has seen.
func TestKindsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := capture(t)
		l := New()
		for _, line := range []string{"first", "second"} {
			l.Printf("drop", "%s", line)
			time.Sleep(interval + time.Millisecond)
			synctest.Wait()
			if len(l.suppressed) != 0 {
				t.Errorf("%d kinds are remembered", len(l.suppressed))
			}
		}
		if out.String() != "first\nsecond\n" {
			t.Errorf("%q", out)
		}
	})
}

func TestWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := capture(t)
		n, err := New().Write([]byte(" http: no descriptor\n"))
		time.Sleep(2 * interval)
		synctest.Wait()
		if n != 21 || err != nil || out.String() != "http: no descriptor\n" {
			t.Errorf("%d, %v, %q", n, err, out)
		}
	})
}
