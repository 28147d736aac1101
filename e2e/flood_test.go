package e2e

import (
	"slices"
	"testing"
	"time"
)

// 5,000 lines come as fast as a program can say them. While they do, the page can be
// typed into, and afterwards it is no larger than it was meant to be.
func TestFlood(t *testing.T) {
	chat := startChat(t, "-rate", "0")
	ada := chat.open()
	ada.measure()
	robot := chat.joinProgram("")
	said := numbered(5000, "flood")

	slowest, typed := time.Duration(0), ""
	ada.box().focus()
	for batch := range slices.Chunk(said, 100) {
		robot.say(batch...)
		begin := time.Now()
		ada.insert("x")
		typed += "x"
		if got := look[string](ada, "document.activeElement.value"); got != typed {
			t.Fatalf("the box holds %q, want %q", got, typed)
		}
		slowest = max(slowest, time.Since(begin))
	}
	ada.want("all has come", "texts().at(-1) === 'flood 5000'")
	gap := time.Duration(look[float64](ada, "window.longestGap")) * time.Millisecond
	elements := look[int](ada, "document.querySelectorAll('*').length")
	t.Logf("%d letters typed meanwhile, the slowest in %v; the page was busy for at most %v; %d elements", len(typed), slowest, gap, elements)
	if slowest > 2*time.Second || gap > 2*time.Second {
		t.Errorf("a letter took %v, and the page was busy for %v, want at most 2s", slowest, gap)
	}
	if elements > 12_000 {
		t.Errorf("the document has %d elements", elements)
	}
	ada.wantLines(said[4000:]...)

	// Who reads further up is not disturbed, but not for ever.
	ada.scroll(-2000)
	ada.want("further up", "fromEnd() > 1000")
	top := look[string](ada, topLine)
	robot.say(numbered(500, "more")...)
	ada.want("all has come", "texts().at(-1) === 'more 500'")
	if now := look[string](ada, topLine); now != top {
		t.Errorf("at the top was %q, now it is %q", top, now)
	}
	ada.want("all is still there", "lines().length === 1500")
	robot.say(numbered(2500, "even more")...)
	ada.want("all has come", "texts().at(-1) === 'even more 2500'")
	ada.want("no more than 2,000 lines", "lines().length <= 2000")
}

// topLine is the text at the upper edge of the log.
const topLine = "textOf(lines().find(line => line.getBoundingClientRect().bottom > log().getBoundingClientRect().top).querySelector('.text'))"

// measure has the page note for how long it was ever too busy to run a timer.
func (p *tab) measure() {
	p.t.Helper()
	look[any](p, `(() => {
		window.longestGap = 0;
		let last = performance.now();
		setInterval(() => {
			const now = performance.now();
			longestGap = Math.max(longestGap, now - last);
			last = now;
		}, 10);
	})()`)
}
