// How the search of the built pages ranks what it finds: Sphinx's own scores, but decisions (adr/)
// come after the pages for users.
var Scorer = {
  score: ([docname, , , , score]) => (docname.startsWith("adr/") ? score - 10 : score),
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
