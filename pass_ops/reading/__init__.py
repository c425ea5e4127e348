"""What is read and what is refused: from a table's columns to checked arrays.

    columns         a column by name, cast where nothing is lost
    ragged          list columns as offsets and values
    groups          where groups start: rows of one group are adjacent
    rollouts        the rows of PASS's three streams, and which of them count
    stream_sources  the general form (docs/spec/streams.md): the column and level of each stream,
    stream_elements   its values that count, and what each is about,
    stream_rows       and the rows with all of them

A table that cannot be shaped is refused here, by row and column; the operations after it get arrays that are whole.
"""
