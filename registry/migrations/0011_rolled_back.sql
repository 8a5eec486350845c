-- Whether the last change of a model's traffic was a rollback: a second one must name its version.

ALTER TABLE models ADD COLUMN rolled_back boolean NOT NULL DEFAULT false;
