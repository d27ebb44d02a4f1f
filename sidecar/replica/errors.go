package replica

import "errors"

// Errors of the store and its handles.
var (
	// ErrStoreFailed means that a write to the disk failed. The store is frozen as it was then and serves nothing; its owner
	// may close it and open it again.
	ErrStoreFailed = errors.New("replica store failed")
	// ErrClosed means that the store is closed.
	ErrClosed = errors.New("replica store closed")
	// ErrCorrupt means that stored bytes are not what this package wrote.
	ErrCorrupt = errors.New("corrupt replica")
	// ErrWrongMesh means that a primary belongs to another mesh than the one that this store first met.
	ErrWrongMesh = errors.New("primary of another mesh")
	// ErrBookmarkLost means that a bookmark names a state of an old epoch that was lost when another primary took over.
	ErrBookmarkLost = errors.New("bookmark lost")
)

// Errors of ApplyRecords. After any of them the copy is as it was before the call, or at a whole version in between.
var (
	// ErrRecord means that bytes are not a commit record, or one that contradicts itself or the schema.
	ErrRecord = errors.New("invalid commit record")
	// ErrGap means that a record does not follow the last applied one.
	ErrGap = errors.New("gap in the log")
	// ErrFork means that a record continues another history than the one that was applied.
	ErrFork = errors.New("log forked")
	// ErrMeshBehind means that the copy of _mesh has not reached the version that a record needs.
	ErrMeshBehind = errors.New("copy of _mesh is behind the record")
	// ErrDiverged means that a table's sum or row count is not the primary's, or that its rows and index entries contradict
	// each other. The table, or where that cannot be done the copy, must be made anew.
	ErrDiverged = errors.New("copy diverged from the primary")
)

// Problems of a database beside ErrFork, ErrDiverged and ErrStoreFailed: see Database.Problem.
var (
	// ErrSyncing means that the first copy is not complete yet.
	ErrSyncing = errors.New("copy is not complete yet")
	// ErrFollowerAhead means that the primary's log ends before the copy does.
	ErrFollowerAhead = errors.New("copy is ahead of its primary")
	// ErrDropped means that the database was deleted, or that this region no longer holds it.
	ErrDropped = errors.New("database dropped")
)

// problem is why a copy is not served. Its values are stored: they never change.
type problem uint8

const (
	problemNone     problem = 0
	problemSyncing  problem = 1
	problemFork     problem = 2
	problemAhead    problem = 3
	problemDiverged problem = 4

	// In memory only.
	problemDropped problem = 5
	problemEmpty   problem = 6 // nothing was ever applied
)

func (p problem) err() error {
	switch p {
	case problemNone:
		return nil
	case problemSyncing, problemEmpty:
		return ErrSyncing
	case problemFork:
		return ErrFork
	case problemAhead:
		return ErrFollowerAhead
	case problemDiverged:
		return ErrDiverged
	case problemDropped:
		return ErrDropped
	default:
		return ErrCorrupt
	}
}
