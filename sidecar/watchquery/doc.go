// Package watchquery tells callers what a SELECT answers, and again whenever a commit touched what it reads and the answer is
// another one.
//
// Each watched database has a goroutine that waits for the copy's next state and asks the stamps which answers may have changed
// with it; each distinct statement has one that runs it then, on one snapshot, once for all its watchers and not more often than
// allowed. A watcher has nothing of its own but a number: it sends the newest answer that it has not sent yet. So who is slow
// sees fewer answers, each of them whole and of one version, and costs nobody anything.
package watchquery
