"""Everything a user can ask for, as values: a frozen, JSON-serialisable job in, a result out."""
