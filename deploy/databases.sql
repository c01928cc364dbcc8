-- Run once by PostgreSQL's image, beside the database that POSTGRES_DB names: the logins are apart from the runs.
CREATE DATABASE auth;
