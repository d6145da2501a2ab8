package eventlog

import (
	"context"
	"errors"
	"strconv"
	"time"

	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"switchboard/platform/config"
	"switchboard/platform/errs"
)

// mongoStrategy writes one document for each line. Their ids are made from the
// entry's, so that a line that comes again is not stored again.
type mongoStrategy struct {
	url              config.Secret
	database, within string // the collection
	client           *mongo.Client
	lines            *mongo.Collection
}

// line is a document.
type line struct {
	ID         string    `bson:"_id"`
	Entry      string    `bson:"entry"`
	Time       time.Time `bson:"time"` // to the millisecond, as BSON has it
	Module     string    `bson:"module"`
	Event      string    `bson:"event"`
	Text       string    `bson:"text" pii:"content"`
	Refs       []lineRef `bson:"refs,omitempty"`
	Target     string    `bson:"target,omitempty"`
	TargetKind string    `bson:"target_kind,omitempty"`
	// Data is JSON text: as a document, its keys could be commands.
	Data string `bson:"data,omitempty" pii:"content"`
}

type lineRef struct {
	Kind string `bson:"kind"`
	ID   string `bson:"id" pii:"content"`
}

const (
	mongoLines    = 1000 // of one request
	mongoPatience = 3 * time.Second
	duplicateKey  = 11000
)

func newMongo(cfg Config) *mongoStrategy {
	return &mongoStrategy{url: cfg.MongoDBURL, database: cfg.MongoDBDatabase, within: cfg.MongoDBCollection}
}

// connect makes the client, which looks for the server by itself from then on.
func (s *mongoStrategy) connect() error {
	if s.client != nil {
		return nil
	}
	client, err := mongo.Connect(options.Client().ApplyURI(s.url.Reveal()).SetAppName("switchboard").SetMaxPoolSize(4).
		SetConnectTimeout(mongoPatience).SetServerSelectionTimeout(mongoPatience).SetTimeout(writeTimeout))
	if err != nil {
		// The driver's text might quote the URL, and with it the password.
		return errs.New(errs.Unavailable, "mongodb: the server's name cannot be looked up, or the URL is wrong")
	}
	s.client = client
	s.lines = client.Database(s.database).Collection(s.within)
	return nil
}

func (s *mongoStrategy) close() {
	if s.client == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), mongoPatience)
	defer cancel()
	_ = s.client.Disconnect(ctx)
}

func (s *mongoStrategy) write(ctx context.Context, batch []*record) (done int, err error) {
	if err := s.connect(); err != nil {
		return 0, err
	}
	lines := make([]any, 0, mongoLines)
	for i, r := range batch {
		refs := make([]lineRef, len(r.Refs))
		for i, ref := range r.Refs {
			refs[i] = lineRef{ref.Kind, ref.ID}
		}
		id := r.Module + ":" + r.ID
		first := line{ID: id, Entry: r.ID, Time: r.Time, Module: r.Module, Event: r.Event, Text: r.Text, Refs: refs, Data: string(r.Data)}
		if lines, done, err = s.add(ctx, lines, first, done, i); err != nil {
			return done, err
		}
		for n, target := range r.Targets {
			sent := line{ID: id + "#" + strconv.Itoa(n+1), Entry: r.ID, Time: r.Time, Module: r.Module, Event: r.Event,
				Text: sentTo + target, Refs: refs, Target: target, TargetKind: r.TargetKind}
			if lines, done, err = s.add(ctx, lines, sent, done, i); err != nil {
				return done, err
			}
		}
	}
	if err := s.insert(ctx, lines); err != nil {
		return done, err
	}
	return len(batch), nil
}

// add gathers a line of the record i. When a request is full it goes out, and
// all records before i are done.
func (s *mongoStrategy) add(ctx context.Context, lines []any, one line, done, i int) ([]any, int, error) {
	lines = append(lines, one)
	if len(lines) < mongoLines {
		return lines, done, nil
	}
	if err := s.insert(ctx, lines); err != nil {
		return lines, done, err
	}
	clear(lines)
	return lines[:0], i, nil
}

func (s *mongoStrategy) insert(ctx context.Context, lines []any) error {
	if len(lines) == 0 {
		return nil
	}
	_, err := s.lines.InsertMany(ctx, lines, options.InsertMany().SetOrdered(false))
	var bulk mongo.BulkWriteException
	var command mongo.CommandError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &bulk):
		for _, w := range bulk.WriteErrors {
			if w.Code != duplicateKey {
				// The text might quote the document.
				return errs.New(errs.Invalid, "mongodb: a document was refused with the code %d", w.Code)
			}
		}
		if w := bulk.WriteConcernError; w != nil {
			return errs.New(errs.Unavailable, "mongodb: the write was not confirmed: code %d %s", w.Code, w.Name)
		}
		return nil // all were there already
	case errors.As(err, &command):
		return errs.New(errs.Unavailable, "mongodb: the command failed with the code %d %s", command.Code, command.Name)
	}
	return errs.Wrap(errs.Unavailable, err, "mongodb")
}
