//go:build unix

package filelog

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// Directory and files are closed to others whatever the umask; a directory that is open is
// a log line.
func TestPermissions(t *testing.T) {
	for _, umask := range []int{0, 0o777} {
		dir := filepath.Join(t.TempDir(), "history")
		before := syscall.Umask(umask)
		d, m := openDir(t, dir, 0)
		r := openRoom(t, d, "")
		r.say("hello")
		r.close()
		syscall.Umask(before)
		for name, want := range map[string]os.FileMode{".": 0o700, "lock": 0o600, "secret": 0o600, lobbyFile: 0o600} {
			if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != want {
				t.Errorf("umask %o: %s is %v, %v", umask, name, info.Mode(), err)
			}
		}
		m.wantLogged(t, 0, "open to other")
	}
	dir := t.TempDir()
	os.Chmod(dir, 0o755)
	_, m := openDir(t, dir, 0)
	m.wantLogged(t, 1, dir+" is open to other users")
}
