"""Photographs of any size and kind: restored into files, or scored by the folder.

Both: photograph (a file as an array, and back), tiling (windows of one size), uncertainty (the deviation of a pixel).
Restored: files (files in, restored files out).
Scored: score_folder (the loop over a folder), in which cases (what is scored) go through the model and baselines, each
timed (stopwatch); their outputs become scores, a calibration of the uncertainty, a score_table and a contact_sheet.
"""
