// All text of the page passes here. It comes from clients and origins: it is set as text and never parsed as HTML.

/** The element with an id. It is in page.html. */
export const byId = (id) => document.getElementById(id);

/** Set a node's text, unless it is that already: what a user has selected stays selected. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** A new element with attributes and children; strings become text. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/**
 * Show items in a table, or its text for none of them.
 *
 * A column is `{text}`, or `{draw(cell, item)}` for more than text, with `num` for numbers and `head` for the cell that
 * names the row. Rows are reused in their order, so that the focus stays where it is.
 */
export function showRows(table, items, columns) {
  const body = table.tBodies[0];
  table.hidden = items.length === 0;
  const empty = table.parentElement.querySelector(":scope > .empty");
  if (empty) empty.hidden = items.length > 0;
  while (body.rows.length > items.length) body.rows[items.length].remove();
  while (body.rows.length < items.length) body.append(newRow(columns));
  items.forEach((item, number) => {
    columns.forEach((column, at) => {
      const cell = body.rows[number].cells[at];
      if (column.draw) column.draw(cell, item);
      else setText(cell, column.text(item));
    });
  });
}

function newRow(columns) {
  const row = document.createElement("tr");
  for (const { head, num } of columns) {
    const cell = head ? element("th", { scope: "row" }) : document.createElement("td");
    if (num) cell.className = "num";
    row.append(cell);
  }
  return row;
}

/** Show `[name, text]` pairs in a list of definitions. */
export function showFacts(list, facts) {
  while (list.children.length > 2 * facts.length) list.lastElementChild.remove();
  while (list.children.length < 2 * facts.length) list.append(element("dt"), element("dd"));
  facts.forEach(([name, text], number) => {
    setText(list.children[2 * number], name);
    setText(list.children[2 * number + 1], text);
  });
}
