"""Taking in: the collector and its sources, events made strict and pseudonymous, files of events, consent over HTTP."""
