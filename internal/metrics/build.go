package metrics

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// A Build is what this program was built from, by its own account.
type Build struct {
	Version   string // of the module; "(devel)" or a pseudo-version for a checkout
	Revision  string // of the version control system, "+dirty" if files were changed; "" if unknown
	GoVersion string
}

// ReadBuild returns what the program was built from.
func ReadBuild() Build {
	b := Build{Version: "unknown", GoVersion: runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if info.Main.Version != "" {
		b.Version = info.Main.Version
	}
	dirty := ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			b.Revision = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "+dirty"
		}
	}
	if b.Revision != "" {
		b.Revision += dirty
	}
	return b
}

// String returns the build in one line.
func (b Build) String() string {
	if b.Revision == "" {
		return fmt.Sprintf("chat %s, %s", b.Version, b.GoVersion)
	}
	return fmt.Sprintf("chat %s, revision %s, %s", b.Version, b.Revision, b.GoVersion)
}
