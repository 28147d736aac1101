package e2e

import (
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// How quick the page is. What is measured depends on the machine and on what else runs there. So each case may be tried
// three times, of which the best counts, and is divided by how much slower the machine is than a quiet one, as a page
// that does nothing shows before and after.

var seconds = flag.Int("seconds", 5, "how long TestFrames looks at the frames")

// bestOf returns the smallest of what three tries measure on a tab. It stops at the first that is within the limit.
func (p *tab) bestOf(limit time.Duration, try func() time.Duration) time.Duration {
	p.t.Helper()
	best := time.Duration(1<<63 - 1)
	for tries := 0; tries < 3 && best > limit; tries++ {
		before := p.load()
		took := try()
		best = min(best, took/max(before, p.load()))
	}
	return best
}

// load returns how much slower the machine is now than when nothing else runs: 1 or more.
func (p *tab) load() time.Duration {
	p.t.Helper()
	return time.Duration(look[float64](p, `new Promise(resolve => {
		const frames = [];
		let last = performance.now();
		const frame = now => {
			frames.push(now - last);
			last = now;
			if (frames.length < 100) requestAnimationFrame(frame);
			else resolve(Math.max(1, Math.round(frames.sort((a, b) => a - b)[97] / 17))); // on a quiet machine it is 17 ms
		};
		requestAnimationFrame(frame);
	})`))
}

// Whoever sends two thousand lines at once can go on typing at once.
func TestTwoThousandLinesAtOnce(t *testing.T) {
	chat := startChat(t, "-rate", "0")
	ada, bob := chat.open(), chat.open()
	ada.measure()
	const limit = 200 * time.Millisecond
	for what, line := range map[string]string{"short": "a line", "long": strings.Repeat("a long line ", 20)} {
		text := strings.Join(numbered(2000, line), "\n")
		busy := ada.bestOf(limit, func() time.Duration {
			ada.box().focus()
			look[any](ada, `void (one('textarea').value = `+quoted(text)+`, one('textarea').dispatchEvent(new Event('input')))`)
			look[any](ada, "new Promise(resolve => setTimeout(() => { longestGap = 0; resolve(); }, 500))")
			ada.press("Enter")
			ada.want("all is sent and back", "one('textarea').value === '' && lines().length > 0 && lines().every(line => line.dataset.state === 'back')")
			bob.want("it has arrived", "texts().at(-1)?.endsWith(' 2000')")
			return time.Duration(look[float64](ada, "longestGap") * float64(time.Millisecond))
		})
		t.Logf("2,000 %s lines, %d bytes: the sender's page was busy for at most %v", what, len(text), busy)
		if busy > limit {
			t.Errorf("the sender's page was busy for %v, want at most %v", busy, limit)
		}
	}
}

// What one says, the other sees at once.
func TestSeenAtOnce(t *testing.T) {
	chat := startChat(t, "-rate", "0")
	ada, bob := chat.open(), chat.open()
	look[any](bob, `void (window.seen = {}, new MutationObserver(() => {
		const line = lines().at(-1);
		if (line) requestAnimationFrame(() => { seen[textOf(line.querySelector('.text'))] ??= Date.now(); });
	}).observe(log(), { childList: true }))`)
	const limit = 30 * time.Millisecond
	try := 0
	median := bob.bestOf(limit, func() time.Duration {
		try++
		var took []float64
		for _, text := range numbered(50, fmt.Sprint("try ", try, ", line")) {
			ada.write(text)
			began := look[float64](ada, `(() => {
				document.querySelector('main form').requestSubmit();
				return Date.now();
			})()`)
			bob.want("it is seen", "seen["+quoted(text)+"]")
			took = append(took, look[float64](bob, "seen["+quoted(text)+"]")-began)
		}
		slices.Sort(took)
		t.Logf("seen after %v ms (median), %v ms at most", took[25], took[49])
		return time.Duration(took[25] * float64(time.Millisecond))
	})
	if median > limit {
		t.Errorf("what one says is seen after %v, want %v", median, limit)
	}
}

// Fifty lines a second, every tenth of them as bad as can be, and the page draws frame after frame and takes each key.
func TestFrames(t *testing.T) {
	chat := startChat(t, "-rate", "0")
	ada, robot := chat.open(), chat.joinProgram("Robot")
	robot.say(numbered(1000, "before")...)
	ada.want("the log is full", "texts().at(-1) === 'before 1000'")
	bad := []string{strings.Repeat("http://a/ ", 400), "x" + strings.Repeat("\u0301", 2000), strings.Repeat("word ", 800), strings.Repeat("🦉", 1000)}
	const limit = 70 * time.Millisecond
	p99 := ada.bestOf(limit, func() time.Duration {
		look[any](ada, `void (() => {
			window.frames_ = [];
			let last = performance.now();
			const frame = now => {
				if (!frames_) return;
				frames_.push(now - last);
				last = now;
				requestAnimationFrame(frame);
			};
			requestAnimationFrame(frame);
		})()`)
		slowestKey := time.Duration(0)
		lines := time.NewTicker(time.Second / 50)
		defer lines.Stop()
		ada.box().selectAll()
		for i := range 50 * *seconds {
			<-lines.C
			if i%10 == 9 {
				robot.say(bad[i/10%len(bad)])
			} else {
				robot.say(fmt.Sprint("line ", i, " of fifty a second"))
			}
			if i%25 == 0 {
				begin := time.Now()
				ada.insert("x")
				slowestKey = max(slowestKey, time.Since(begin))
			}
		}
		frames := look[[]float64](ada, "frames_")
		look[any](ada, "void (frames_ = null)")
		slices.Sort(frames)
		p99 := frames[len(frames)*99/100]
		t.Logf("%d frames in %d s: median %.0f ms, p99 %.0f ms, longest %.0f ms; slowest key %v", len(frames), *seconds,
			frames[len(frames)/2], p99, frames[len(frames)-1], slowestKey)
		return time.Duration(p99 * float64(time.Millisecond))
	})
	if p99 > limit {
		t.Errorf("one frame in a hundred takes %v, want less than %v", p99, limit)
	}
}
